// What the server's settings mean for instances, in the words of their flows.

import type { ServerConfig } from '../platform/config.ts'
import type { InstanceSettings } from './context.ts'
import type { RateSupply } from './shares.ts'
import { settingOf } from './snapshot-policy.ts'

type Settings = Pick<ServerConfig, 'hypervisor' | 'timeouts' | 'limits' | 'network' | 'snapshots' | 'capacity' | 'oversubscription'>

export function settingsOf(config: Settings): InstanceSettings {
  return {
    defaultHypervisor: config.hypervisor.default,
    bootTimeoutMs: config.timeouts.boot,
    restoreTimeoutMs: config.timeouts.restore,
    stopGraceMs: config.timeouts.stop,
    lockWaitMs: config.timeouts.lock,
    networkMode: config.network.mode,
    compression: settingOf(config.snapshots.compression),
    diskThroughput: supplyOf(config.capacity.disk_io, config.oversubscription.disk_io),
    bandwidth: supplyOf(config.capacity.network, config.oversubscription.network),
    maxVcpus: config.limits.max_vcpus_per_instance,
    maxMemoryBytes: config.limits.max_memory_per_instance,
    maxOverlayBytes: config.limits.max_overlay_size,
  }
}

/** As in requests, 0 says that there is no limit. */
function supplyOf(capacity: number | undefined, ratio: number): RateSupply | undefined {
  return capacity === undefined || capacity === 0 ? undefined : { capacity, ratio }
}
