// What the services in fake-services.ts answer with: things of each kind that say as little as they may.

import type { InstanceView } from '../../src/api/schemas/instance.ts'
import type { SnapshotView } from '../../src/api/schemas/snapshot.ts'
import type { VerifyEvent } from '../../src/api/schemas/verification.ts'
import type { Image } from '../../src/images/types.ts'

export const now = '2026-01-02T03:04:05.678Z'

export const autoStandbyOff = {
  ...{ supported: true, configured: false, enabled: false, eligible: false },
  ...{ status: 'disabled' as const, reason: 'policy_missing' as const, active_inbound_connections: 0, tracking_mode: 'none' },
}

export function snapshotView(id: string, source: InstanceView, kind: SnapshotView['kind']): SnapshotView {
  const origin = { source_instance_id: source.id, source_instance_name: source.name, source_hypervisor: 'qemu' as const }
  return { id, kind, created_at: now, size_bytes: 1024, allocated_bytes: 512, paused_ms: 3.5, ...origin }
}

export function* verified(id: string): Generator<VerifyEvent> {
  yield { type: 'progress', snapshot_id: id, file: 'snapshot.json', done_bytes: 10, total_bytes: 10 }
  const files = [{ name: 'snapshot.json', status: 'ok' as const, size_bytes: 10, read_bytes: 10 }]
  yield { type: 'result', snapshot_id: id, status: 'ok', ms: 1, read_bytes: 10, files }
}

export function imageOf(name: string, status: Image['status']): Image {
  return { name, digest: `sha256:${'0'.repeat(64)}`, platform: 'linux/amd64', status, createdAt: now, tags: {} }
}
