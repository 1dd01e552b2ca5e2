// What a flow is for the matrix: how the world looks before it, what starts it, and how to tell afterwards what became of it.

import type { World } from './world.ts'

/** What became of a flow that was broken. Anything else that can be seen is a failure, and thrown by `judge`. */
export type Verdict =
  /** As if it had never been asked for. */
  | 'as before'
  /** As if nothing had been broken. */
  | 'done'
  /** Its VMM is gone, or was never started; what was on the disk is there. */
  | 'stopped'
  /** A committed fork that rests in standby, whole. */
  | 'asleep'
  /** It stands still, with all that it has, until it goes to standby after all. */
  | 'paused'
  /** The snapshot is there, and its source is off. */
  | 'done, source stopped'
  /** Restored, and its VMM is gone since. */
  | 'done, then stopped'
  /** Listed as failed, with the reason. */
  | 'failed'

export interface Scenario {
  readonly name: string
  /** Makes what it needs, or brings it back to where it starts from. */
  prepare(world: World): Promise<void>
  /** Rejects when the server refuses, with a LateFailure when it fails after its answer. */
  act(world: World): Promise<void>
  /** Looks at everything that the flow touches, and uses it. */
  judge(world: World): Promise<Verdict>
  /** Removes what it made. */
  clean(world: World): Promise<void>
  /** Names of instances whose directories must be the same, byte for byte, when the verdict is `as before`. */
  readonly frozen?: readonly string[]
  /** Verdicts that are allowed besides `as before` when the server has refused, */
  readonly refused?: readonly Verdict[]
  /** also when the disk stays broken, */
  readonly broken?: readonly Verdict[]
  /** when it failed after its answer, */
  readonly late?: readonly Verdict[]
  /** when it was killed (`done` always is), */
  readonly crashed?: readonly Verdict[]
  /** and when the VMM was. */
  readonly vmm?: readonly Verdict[]
}
