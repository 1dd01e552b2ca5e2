// The door of this folder for its siblings.

export type { SnapshotContext } from './context.ts'
export { createSnapshotService } from './service.ts'
export { SnapshotStore } from './store.ts'
