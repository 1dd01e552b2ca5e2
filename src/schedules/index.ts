// The door of this folder for its siblings.

export { attendSchedule, needsAttention } from './attend.ts'
export type { ScheduleContext } from './context.ts'
export { createScheduleService } from './service.ts'
export { ScheduleStore } from './store.ts'
