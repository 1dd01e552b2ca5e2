// Releases of Firecracker: https://github.com/firecracker-microvm/firecracker/releases. An archive for each processor, with its checksum beside it.

import type { Release } from '../release.ts'

const releases = 'https://github.com/firecracker-microvm/firecracker/releases/download'
const processors: Readonly<Record<string, string>> = { x64: 'x86_64', arm64: 'aarch64' }

export const firecrackerRelease: Release = {
  hypervisor: 'firecracker',
  program: 'firecracker',
  versionPattern: /Firecracker v(\d\S*)/,
  published(version, processor) {
    const name = processors[processor]
    if (name === undefined) return undefined
    const build = `v${version}-${name}`
    const url = `${releases}/v${version}/firecracker-${build}.tgz`
    return {
      url,
      sha256Url: `${url}.sha256.txt`,
      member: `release-${build}/firecracker-${build}`,
      beside: { member: `release-${build}/jailer-${build}`, program: 'jailer' },
    }
  },
}
