// Names in an instance's directory, which is the working directory of its process, and in a payload. What may be written when: README.md.

import type { FilePart } from '../driver.ts'
import { manifestFile } from '../image-manifest.ts'

/** What is inside is named relatively, so that a fork's process finds its own. */
export const firecrackerFiles = { api: 'api.sock', vsock: 'vsock.sock', console: 'logs/console.log', vmm: 'logs/vmm.log' } as const

/** Of a memory image; the manifest is last to come and first to go. */
export const memoryFiles = { image: 'memory.image', state: 'memory.state', manifest: manifestFile } as const

/** `live` is what a machine writes to, `frozen` the disk of a memory image's or a payload's instant. */
export const diskFiles = { live: 'disk.raw', frozen: 'disk.frozen' } as const

const parts: Readonly<Record<string, FilePart>> = {
  [memoryFiles.state]: 'state',
  [memoryFiles.manifest]: 'state',
  [memoryFiles.image]: 'memory',
  [diskFiles.frozen]: 'disk',
}

export function partOf(file: string): FilePart | undefined {
  return parts[file]
}
