// Finds an order of calls on one object that explains all their answers: each call takes effect at one instant between its sending and its answer
// (Herlihy and Wing, "Linearizability", 1990). The search is that of Wing and Gong with a memory of what has failed (Lowe, 2017).

import type { Timed } from './history.ts'

/** An object as one caller alone would see it. */
export interface Rules<State, Event> {
  readonly initial: State
  /** The states after the event; none if it can't happen in this state with its answer. What an event may leave open, a later one may decide. */
  step(state: State, event: Event): readonly State[]
  /** True for what changes nothing in any state, but for what it lets one know. */
  readonly isLook: (event: Event) => boolean
}

export type Explanation<State, Event> =
  | { readonly explained: true }
  /** How far the best attempt came: a state in which none of the next events could have happened. */
  | { readonly explained: false; readonly state: State; readonly next: readonly Event[] }

/** `optional` events may also never have happened, or later than their answer. */
export function linearize<State, Event extends Timed & { readonly optional?: boolean }>(
  rules: Rules<State, Event>,
  unordered: readonly Event[],
): Explanation<State, Event> {
  const events = unordered
    .map((event) => ({ event, sent: event.sent, answered: event.optional === true ? Number.POSITIVE_INFINITY : event.answered }))
    .toSorted((one, other) => one.sent - other.sent)
  const done = events.map(() => false)
  const failed = new Set<string>()
  const best: { count: number; state: State; next: readonly Event[] } = { count: -1, state: rules.initial, next: [] }

  /** Indexes of the events that may come next: nothing that is still to do was answered before they were sent. */
  const candidates = (from: number): number[] => {
    const found: number[] = []
    let earliest = Number.POSITIVE_INFINITY
    for (let at = from; at < events.length; at += 1) {
      const one = events[at]
      if (one === undefined || done[at] === true) continue
      if (one.sent > earliest) break
      earliest = Math.min(earliest, one.answered)
      found.push(at)
    }
    return found.toSorted((one, other) => (events[one]?.answered ?? 0) - (events[other]?.answered ?? 0))
  }

  const search = (state: State, from: number, count: number): boolean => {
    let first = from
    while (first < events.length && done[first] === true) first += 1
    const next = candidates(first)
    if (next.every((at) => events[at]?.answered === Number.POSITIVE_INFINITY)) return true
    const key = `${first} ${ahead(done, first)} ${JSON.stringify(state)}`
    if (failed.has(key)) return false
    if (count > best.count) Object.assign(best, { count, state, next: next.flatMap((at) => events[at]?.event ?? []) })
    const branches = next.flatMap((at) => {
      const one = events[at]
      if (one === undefined) return []
      const look = rules.isLook(one.event)
      return rules.step(state, one.event).map((after) => ({ at, after, idle: look && isSame(state, after) }))
    })
    // A look that fits now may as well happen now: no other order needs it later.
    const idle = branches.find((branch) => branch.idle)
    for (const { at, after } of idle === undefined ? branches : [idle]) {
      done[at] = true
      if (search(after, first, count + 1)) return true
      done[at] = false
    }
    failed.add(key)
    return false
  }
  return search(rules.initial, 0, 0) ? { explained: true } : { explained: false, state: best.state, next: best.next }
}

function isSame(one: unknown, other: unknown): boolean {
  return one === other || JSON.stringify(one) === JSON.stringify(other)
}

function ahead(done: readonly boolean[], from: number): string {
  return done.flatMap((is, at) => (is && at > from ? [at] : [])).join(',')
}
