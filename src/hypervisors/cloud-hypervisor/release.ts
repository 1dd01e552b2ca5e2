// Releases of Cloud Hypervisor: https://github.com/cloud-hypervisor/cloud-hypervisor/releases. Static programs; no checksums beside them.

import type { Release } from '../release.ts'

const releases = 'https://github.com/cloud-hypervisor/cloud-hypervisor/releases/download'
const files: Readonly<Record<string, string>> = { x64: 'cloud-hypervisor-static', arm64: 'cloud-hypervisor-static-aarch64' }

export const cloudHypervisorRelease: Release = {
  hypervisor: 'cloud-hypervisor',
  program: 'cloud-hypervisor',
  versionPattern: /cloud-hypervisor v(\d\S*)/,
  published(version, processor) {
    const file = files[processor]
    if (file === undefined) return undefined
    return { url: `${releases}/v${version}/${file}`, sha256Url: undefined, member: undefined }
  },
}
