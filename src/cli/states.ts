// The states and kinds that users may type. The lists that only schemas have are held against the wire by the compiler: schemas are not loaded here.

import { instanceStates, targetStates } from '../api/actions.ts'
import type { LogSource, SnapshotKind } from '../client/client.ts'

export { instanceStates, targetStates }

export const snapshotKinds = Object.keys({ Standby: true, Stopped: true } satisfies Record<SnapshotKind, true>)

export const logSources = Object.keys({ app: true, vmm: true, hypeman: true } satisfies Record<LogSource, true>)
