// Errors that take more than a stand-in to provoke (a registry, a kernel, the end of the server), and the test that does.

import type { ErrorCode } from '../../../src/api/errors.ts'

const start = 'src/hypervisors/qemu/index.test.ts'
/** The VMM ends meanwhile. */
const ended = 'src/hypervisors/qemu/machine.test.ts'
/** A program that the host needs for it is not installed. */
const tool = 'src/platform/tool.test.ts'

export const elsewhere: Readonly<Record<string, Partial<Record<ErrorCode, string>>>> = {
  'POST /instances': { host_unavailable: start },
  'POST /instances/{id}/start': { host_unavailable: start },
  'POST /instances/{id}/restore': { host_unavailable: start },
  'POST /instances/{id}/fork': { host_unavailable: start },
  'POST /instances/{id}/snapshots/{snapshotId}/restore': { host_unavailable: start },
  'POST /instances/{id}/standby': { not_supported: 'src/instances/machine.test.ts', host_unavailable: ended },
  'POST /instances/{id}/snapshots': { not_supported: 'src/instances/machine.test.ts', host_unavailable: ended },
  'POST /snapshots/{snapshotId}/fork': { host_unavailable: start },
  'POST /instances/{id}/volumes/{volumeId}': { host_unavailable: 'src/hypervisors/qemu/disk-parts.test.ts' },
  'POST /resources/memory/reclaim': { not_supported: 'src/instances/reclaim.test.ts' },
  'GET /instances/{id}/wait': { canceled: 'src/server/http.test.ts' },
  'POST /images': {
    not_found: 'tests/integration/images.test.ts',
    host_unavailable: tool,
  },
  'POST /images/import': { host_unavailable: tool },
  'POST /volumes': { host_unavailable: 'src/volumes/archive.test.ts' },
  'POST /volumes/from-archive': { archive_too_large: 'src/volumes/archive.test.ts', host_unavailable: 'src/volumes/archive.test.ts' },
}
