// The states that users may type, held against the wire's by the compiler.

import type { InstanceState, LogSource, SnapshotKind, TargetState } from '../client/client.ts'

export const instanceStates = Object.keys({
  Created: true,
  Initializing: true,
  Running: true,
  Paused: true,
  Shutdown: true,
  Stopped: true,
  Standby: true,
  Unknown: true,
} satisfies Record<InstanceState, true>)

export const targetStates = Object.keys({ Running: true, Standby: true, Stopped: true } satisfies Record<TargetState, true>)

export const snapshotKinds = Object.keys({ Standby: true, Stopped: true } satisfies Record<SnapshotKind, true>)

export const logSources = Object.keys({ app: true, vmm: true, hypeman: true } satisfies Record<LogSource, true>)
