// Gives each snapshot schedule what it needs when it needs it. One timer sleeps until the next one is due; what is done then is schedules/attend.ts's.

import { messageOf } from '../platform/flow.ts'
import { attendSchedule, needsAttention, type ScheduleContext } from '../schedules/index.ts'

/** Snapshots are taken by so many schedules at a time: more would only wait for the disk, and keep guests waiting. */
const AT_ONCE = 2
/** It looks at least this often, in milliseconds: timers don't see that somebody sets the clock. */
const LONGEST_SLEEP_MS = 60_000
/** What could not be done for a schedule is tried again after this time, in milliseconds. */
const REST_MS = 60_000

export class ScheduleWorker implements AsyncDisposable {
  readonly #context: ScheduleContext
  readonly #removed: () => void
  readonly #underWay = new Map<string, Promise<void>>()
  /** Until when, on the clock of `performance`. */
  readonly #resting = new Map<string, number>()
  #timer: NodeJS.Timeout | undefined
  #closed = false

  /** Begins with the first look. `removed` is told after snapshots are gone. */
  constructor(context: ScheduleContext, removed: () => void) {
    this.#context = context
    this.#removed = removed
  }

  /** Begins what is due now, the longest overdue first, and sleeps until something is again. Also for those who changed what may be due. */
  look(): void {
    // What the end of the server cuts off is due until the next server is there.
    if (this.#closed || this.#context.snapshots.instances.stopping.aborted) return
    clearTimeout(this.#timer)
    const now = Date.now()
    let next = now + LONGEST_SLEEP_MS
    const schedules = this.#context.store.list().toSorted((one, other) => Date.parse(one.nextRunAt) - Date.parse(other.nextRunAt))
    for (const schedule of schedules) {
      const { instanceId } = schedule
      if (this.#underWay.has(instanceId) || (this.#resting.get(instanceId) ?? 0) > performance.now()) continue
      if (!needsAttention(this.#context, schedule, now)) next = Math.min(next, Date.parse(schedule.nextRunAt))
      else if (this.#underWay.size < AT_ONCE) this.#begin(instanceId) // its end is the next look
    }
    this.#timer = setTimeout(() => this.look(), next - now)
    this.#timer.unref()
  }

  /** Resolves when nothing is under way. */
  async idle(): Promise<void> {
    while (this.#underWay.size > 0) await Promise.all(this.#underWay.values())
  }

  /** Begins nothing any more; what is under way ends with the server's own signal. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true
    clearTimeout(this.#timer)
    await this.idle()
  }

  #begin(instanceId: string): void {
    this.#resting.delete(instanceId)
    const work = attendSchedule(this.#context, instanceId, this.#removed)
      .catch((error: unknown) => {
        const { store, snapshots } = this.#context
        const { log } = snapshots.instances
        const present = store.byInstance(instanceId)
        if (present !== undefined && needsAttention(this.#context, present, Date.now()))
          this.#resting.set(instanceId, performance.now() + REST_MS)
        log.error({ instance: instanceId, error: messageOf(error) }, 'what a snapshot schedule needed could not be done to the end')
      })
      .finally(() => {
        this.#underWay.delete(instanceId)
        this.look()
      })
    this.#underWay.set(instanceId, work)
  }
}
