// What one look at the host found. Made by host.ts and its neighbours, shown by `hypeman doctor`.

export interface Probe {
  readonly name: string
  readonly ok: boolean
  /** True if nothing runs without it; otherwise the product does without and `means` says how. */
  readonly essential: boolean
  /** What was found, in a few words. */
  readonly value: string
  /** What that means for the user, one sentence. */
  readonly means: string
  /** What to do about it; absent where all is well or nothing can be done. */
  readonly fix?: string
}

/** What a probe says in each of its two outcomes. */
export interface Wording {
  readonly name: string
  readonly essential: boolean
  readonly good: string
  readonly bad: string
  readonly fix?: string
}

export function found(wording: Wording, value: string): Probe {
  return { name: wording.name, ok: true, essential: wording.essential, value, means: wording.good }
}

export function lacking(wording: Wording, value: string): Probe {
  return {
    name: wording.name,
    ok: false,
    essential: wording.essential,
    value,
    means: wording.bad,
    ...(wording.fix === undefined ? {} : { fix: wording.fix }),
  }
}

/** The code of a failed system call, or else the message, for `value`. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return (error as NodeJS.ErrnoException).code ?? error.message
}
