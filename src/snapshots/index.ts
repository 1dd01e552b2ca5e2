// The door of this folder for its siblings.

export { captureSnapshot } from './capture.ts'
export { Compressor, openCompressor } from './compressor.ts'
export type { SnapshotContext } from './context.ts'
export { SealKeeper } from './keeper.ts'
export type { SnapshotRecord } from './record.ts'
export { removeSnapshot } from './remove.ts'
export { createSnapshotService } from './service.ts'
export { SnapshotStore } from './store.ts'
export { SnapshotUsage } from './usage.ts'
export { isImageUsed, readersOf } from './uses.ts'
