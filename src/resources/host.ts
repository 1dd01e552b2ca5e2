// What the host has, by looking: processors, memory, the file system of the data directory, the link to the world. Settings come before what is seen.

import { readFileSync, statfsSync } from 'node:fs'
import { availableParallelism, totalmem } from 'node:os'
import type { Supplies } from '../platform/capacity.ts'
import type { ServerConfig } from '../platform/config.ts'

type Settings = Pick<ServerConfig, 'oversubscription' | 'capacity'>

/** What may be promised: asked for each promise, so it only looks at what the kernel has at hand. */
export function suppliesOf(dataDir: string, { oversubscription, capacity }: Settings): Supplies {
  const detected = 'detected' as const
  return {
    cpu: { capacity: availableParallelism(), ratio: oversubscription.cpu, source: detected },
    memory: { capacity: memoryBytes(), ratio: oversubscription.memory, source: detected },
    disk:
      capacity.disk === undefined
        ? { capacity: filesystemBytes(dataDir), ratio: oversubscription.disk, source: detected }
        : { capacity: capacity.disk, ratio: oversubscription.disk, source: 'configured' },
  }
}

/** Of the machine, or of the group of processes that the server and its VMs are in, where that has less. */
function memoryBytes(): number {
  const ofGroup = process.constrainedMemory()
  return ofGroup > 0 ? Math.min(totalmem(), ofGroup) : totalmem()
}

function filesystemBytes(directory: string): number {
  const { blocks, bsize } = statfsSync(directory)
  return blocks * bsize
}

/** Bytes a second of the link that the default route takes; undefined where the kernel does not know, as of most virtual links. */
export function linkBytesPerSecond(): number | undefined {
  try {
    const link = defaultLink(readFileSync('/proc/net/route', 'utf8'))
    return link === undefined ? undefined : bytesOf(readFileSync(`/sys/class/net/${link}/speed`, 'utf8'))
  } catch {
    return undefined // no such file, or a link that has no speed
  }
}

/** The interface of the default route, out of the kernel's table (proc(5), net/route: name, destination, …). */
export function defaultLink(routes: string): string | undefined {
  const rows = routes.split('\n').slice(1)
  return rows
    .map((row) => row.split('\t'))
    .find(([, destination, , , , , , mask]) => destination === '00000000' && mask === '00000000')?.[0]
}

/** The kernel tells megabits a second; -1: not known. */
export function bytesOf(speed: string): number | undefined {
  const megabits = Number(speed)
  return Number.isInteger(megabits) && megabits > 0 ? (megabits * 1_000_000) / 8 : undefined
}
