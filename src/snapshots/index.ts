// The door of this folder for its siblings.

export type { SnapshotContext } from './context.ts'
export { SealKeeper } from './keeper.ts'
export { createSnapshotService } from './service.ts'
export { SnapshotStore } from './store.ts'
