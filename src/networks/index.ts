// The door of this folder for its siblings.

export { hostConnections, sourceOf, type HostConnection } from './connections.ts'
export { createHostNetwork, type HostNetwork } from './host-network.ts'
export { probeFromHost } from './host-probe.ts'
export { allocatePorts, type PublishedPort } from './ports.ts'
export type { Bandwidth } from './shaping.ts'
export { userModeAddress, userModeNetwork } from './user-mode.ts'
