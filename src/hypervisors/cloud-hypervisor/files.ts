// Names in an instance's directory, which is the working directory of its VMM, and in a payload. What may be written when: README.md.

import type { FilePart } from '../driver.ts'
import { manifestFile } from '../image-manifest.ts'
import { diskNumber } from '../raw-disks.ts'

export const vmmFiles = {
  api: 'ch.sock',
  /** Made by the VMM beside its socket, in newer versions. */
  apiLock: 'ch.sock.lock',
  vsock: 'vsock.sock',
  console: 'logs/console.log',
  app: 'logs/app.log',
  vmm: 'logs/vmm.log',
  /** What happened to the machine, by the VMM's event monitor: each start begins it anew. */
  events: 'logs/cloud-hypervisor-events.log',
  /** What the VMM writes while it saves a machine into its own directory: not an image yet. */
  saving: 'saving.tmp',
  /** What a process is restored from: links to an image, with a configuration of its own. */
  restoring: 'restoring.tmp',
  /** Memory that a process was restored from on demand: what it has not asked for yet is there alone, and its snapshots lack it. */
  base: 'memory.base',
} as const

/** The files of a snapshot as the VMM names them. */
export const snapshotParts = { config: 'config.json', state: 'state.json', memory: 'memory-ranges' } as const

export function partOf(name: string): FilePart | undefined {
  if (name === snapshotParts.memory) return 'memory'
  if (name === manifestFile || name === snapshotParts.config || name === snapshotParts.state) return 'state'
  return diskNumber(name) === undefined ? undefined : 'disk'
}
