// What the server's settings mean for instances, in the words of their flows.

import type { ServerConfig } from '../platform/config.ts'
import type { InstanceSettings } from './context.ts'
import { settingOf } from './snapshot-policy.ts'

export function settingsOf(config: Pick<ServerConfig, 'hypervisor' | 'timeouts' | 'limits' | 'network' | 'snapshots'>): InstanceSettings {
  return {
    defaultHypervisor: config.hypervisor.default,
    bootTimeoutMs: config.timeouts.boot,
    restoreTimeoutMs: config.timeouts.restore,
    stopGraceMs: config.timeouts.stop,
    lockWaitMs: config.timeouts.lock,
    networkMode: config.network.mode,
    compression: settingOf(config.snapshots.compression),
    maxVcpus: config.limits.max_vcpus_per_instance,
    maxMemoryBytes: config.limits.max_memory_per_instance,
    maxOverlayBytes: config.limits.max_overlay_size,
  }
}
