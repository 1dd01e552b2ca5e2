// Processors and memory that a guest is given while it runs, as QEMU has them, and its disks made longer.

import type { FileHandle } from 'node:fs/promises'
import { z } from 'zod'
import type { Qmp } from './qmp.ts'

/** How far a guest may grow. */
export interface Room {
  readonly vcpus: number
  /** Of memory beside that of its boot, in MiB. */
  readonly memoryMib: number
}

/** Pieces of memory that can be added, at most. */
const MOST_PIECES = 8

/** Of a guest with so much memory of its boot and so many pieces plugged in; `files` are the descriptors of the pieces in QEMU. */
export function growthArguments(
  { vcpus, memoryMib, room }: { readonly vcpus: number; readonly memoryMib: number; readonly room: Room | undefined },
  pieces: readonly number[],
  files: readonly number[],
): string[] {
  if (room === undefined) return ['-smp', String(vcpus), '-m', `${memoryMib}M`]
  return [
    ...['-smp', `${vcpus},maxcpus=${Math.max(vcpus, room.vcpus)}`],
    ...['-m', room.memoryMib === 0 ? `${memoryMib}M` : `${memoryMib}M,slots=${MOST_PIECES},maxmem=${memoryMib + room.memoryMib}M`],
    ...pieces.flatMap((mib, index) => [
      ...['-object', `memory-backend-file,id=piece${index},size=${mib}M,mem-path=/proc/self/fd/${files[index] ?? -1},share=off`],
      ...['-device', `pc-dimm,id=dimm${index},memdev=piece${index}`],
    ]),
  ]
}

/** For the kernel of a guest that may be given memory: QEMU says where that would be, which is beyond 4 GiB, and the kernel would keep memory to copy what devices can't reach there. */
export function growthKernelArguments(room: Room | undefined): string {
  return room === undefined || room.memoryMib === 0 ? '' : ' swiotlb=noforce'
}

const hotpluggable = z.array(
  z.looseObject({ type: z.string(), props: z.record(z.string(), z.number()), 'qom-path': z.string().optional() }),
)

/** Adds processors until there are so many. */
export async function plugProcessors(qmp: Qmp, count: number): Promise<void> {
  const all = hotpluggable.parse(await qmp.command('query-hotpluggable-cpus'))
  const has = all.filter((one) => one['qom-path'] !== undefined).length
  // The list begins with the last.
  const free = all.filter((one) => one['qom-path'] === undefined).toReversed()
  for (const { type, props } of free.slice(0, count - has))
    await qmp.command('device_add', { driver: type, id: `cpu-${Object.values(props).join('-')}`, ...props })
}

/** Adds a piece of memory, the one with that number, from a file of holes of that size. */
export async function plugMemory(qmp: Qmp, index: number, file: FileHandle, bytes: number): Promise<void> {
  const backend = {
    'qom-type': 'memory-backend-file',
    id: `piece${index}`,
    size: bytes,
    'mem-path': `/proc/${process.pid}/fd/${file.fd}`,
    share: false,
  }
  await qmp.command('object-add', backend)
  await qmp.command('device_add', { driver: 'pc-dimm', id: `dimm${index}`, memdev: `piece${index}` })
}

export async function resizeDisk(qmp: Qmp, place: number, bytes: number): Promise<void> {
  await qmp.command('block_resize', { device: `disk${place}`, size: bytes })
}
