// What may be asked of snapshot schedules, in the wire's words.

import type { ScheduleView, SetScheduleBody } from '../api/schemas/schedule.ts'

/** The reference is an instance's; that of a deleted instance is its exact id. */
export interface ScheduleService {
  /** Makes or replaces it. */
  set(instanceRef: string, body: SetScheduleBody): Promise<ScheduleView>
  get(instanceRef: string): Promise<ScheduleView>
  /** A run that is under way has ended when it resolves. */
  remove(instanceRef: string): Promise<void>
}
