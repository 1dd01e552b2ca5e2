// A guest on QEMU, from a description that names no VMM: what every stand-in runs its guests by. QEMU is a child of the stand-in and ends with it; it has no socket, no pid file and
// no directory, since all that it is told comes through inherited descriptors.

import { spawn, type ChildProcess } from 'node:child_process'
import { constants } from 'node:fs'
import { open, rm, type FileHandle } from 'node:fs/promises'
import type { Duplex } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import path from 'node:path'
import { z } from 'zod'
import { growthArguments, growthKernelArguments, plugMemory, plugProcessors, resizeDisk, type Room } from './growth.ts'
import { copyData, guestMemory, type GuestMemory, type MemoryPart } from './memory.ts'
import { connectQmp, type Qmp } from './qmp.ts'
import { guestTraffic, tapTraffic, type GuestTraffic } from './traffic.ts'

export interface GuestDisk {
  readonly path: string
  readonly readOnly: boolean
  /** Absent: the guest finds the disk by its place. */
  readonly serial?: string
  readonly bytesPerSecond?: number
}

export interface GuestDescription {
  readonly vcpus: number
  /** Of its boot. */
  readonly memoryMib: number
  /** How far it may grow while it runs. Absent: not at all. */
  readonly room?: Room
  /** Not read by a guest that goes on. */
  readonly boot?: { readonly kernel: string; readonly initrd?: string; readonly commandLine: string }
  /** In the order in which the guest finds them. */
  readonly disks: readonly GuestDisk[]
  readonly network?: { readonly tap: string; readonly mac: string }
  /** What the serial console is appended to: a path, or the stand-in's own standard output. */
  readonly console: string
  /** The same of a virtio console (hvc0); absent: there is none. */
  readonly virtioConsole?: string
  /** Names of virtio-serial ports, each of which becomes a stream. */
  readonly ports: readonly string[]
  /** Virtio-serial ports whose output is appended to files. */
  readonly outputs?: readonly { readonly name: string; readonly file: string }[]
}

/** Where a guest goes on from: both files as `Guest.memory` and `Guest.saveDevices` write them. Memory is mapped privately and never written. */
export interface SavedGuest {
  readonly memoryFile: string
  readonly devices: Buffer
  /** Sizes of the pieces of memory that had been added, in MiB; in the file they come behind the memory of the boot. */
  readonly pieces?: readonly number[]
}

/** How a guest ended: it asked for a reset, it turned itself off (QEMU stays, as it does after a halt), or QEMU is gone. */
export type GuestEnd = 'reset' | 'off' | 'gone'

export interface Guest {
  readonly memory: GuestMemory
  /** Settles with the first end. */
  readonly ended: Promise<GuestEnd>
  pause(): Promise<void>
  resume(): Promise<void>
  /** The ACPI power button. */
  powerButton(): Promise<void>
  pressKeys(keys: readonly string[]): Promise<void>
  /** Writes the state of the devices of a paused guest, as `SavedGuest.devices` wants it. */
  saveDevices(file: string): Promise<void>
  /** Limits what the disk at this place reads and writes; 0: no limit. */
  limitDisk(place: number, bytesPerSecond: number): Promise<void>
  /** Adds a piece of memory, in MiB. */
  plugMemory(mib: number): Promise<void>
  /** Adds processors until there are so many. */
  plugProcessors(count: number): Promise<void>
  resizeDisk(place: number, bytes: number): Promise<void>
  /** What it has moved since this process of it began. */
  traffic(): Promise<GuestTraffic>
  /** The stream to a virtio-serial port; undefined while the guest has not opened it. */
  port(name: string): Promise<Duplex | undefined>
  kill(): Promise<void>
}

/** Descriptors of the child: memory, control, incoming devices, then ports. */
const [memoryFd, controlFd, incomingFd, firstPortFd] = [3, 4, 5, 6]
const LOAD_LIMIT_MS = 30_000
const MIB = 1024 ** 2

/** Boots a guest, or makes one that goes on from what was saved; that one is paused. Paths are taken from the stand-in's working directory. */
export async function startGuest(description: GuestDescription, saved?: SavedGuest): Promise<Guest> {
  await using files = new AsyncDisposableStack()
  const bytes = description.memoryMib * MIB
  const pieces = saved?.pieces ?? []
  const allBytes = pieces.reduce((sum, mib) => sum + mib * MIB, bytes)
  // Kept open: the files that it was started from may lose their names.
  const memoryFile = saved === undefined ? await nameless(bytes) : await openMemory(saved.memoryFile, allBytes)
  if ((await memoryFile.stat()).size !== allBytes) {
    await memoryFile.close()
    throw new Error(`the memory file has another size than ${allBytes} bytes`)
  }
  const parts: MemoryPart[] = [{ base: memoryFile, bytes, isOwn: false }]
  for (const mib of pieces) parts.push(await pieceOf(memoryFile, allBytes, parts, mib * MIB))
  const devices = files.use(await nameless(0))
  if (saved !== undefined) await devices.writeFile(saved.devices)
  const tap = description.network?.tap
  const before = tap === undefined ? undefined : await tapTraffic(tap)
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', 'qemu-system-x86_64', ...qemuArguments(description, saved)], {
    cwd: '/',
    stdio: [
      'ignore',
      'inherit',
      'inherit',
      memoryFile.fd,
      'pipe',
      await reopened(devices, files),
      ...description.ports.map(() => 'pipe' as const),
      ...parts.slice(1).map(({ base }) => base.fd),
      ...(writesOwnOutput(description) ? [1] : []),
    ],
  })
  const exited = Promise.withResolvers<void>()
  child.once('exit', () => exited.resolve())
  child.once('error', (error) => exited.reject(error))
  const ended = Promise.withResolvers<GuestEnd>()
  exited.promise.then(() => ended.resolve('gone'), ended.reject)
  const qmp = await connectQmp(streamOf(child, controlFd), (event, data) => {
    if (event === 'SHUTDOWN') ended.resolve(data['reason'] === 'guest-reset' ? 'reset' : 'off')
  })
  if (saved !== undefined) await loaded(qmp)
  const memory = guestMemory(child.pid ?? -1, parts)
  const traffic = (): Promise<GuestTraffic> => guestTraffic(qmp, description.disks.length, tap, before)
  return guestOf(child, { qmp, memory, parts, traffic, ended: ended.promise, exited: exited.promise, ports: description.ports })
}

interface Parts {
  readonly qmp: Qmp
  readonly memory: GuestMemory
  /** Of memory, to which those are added that the guest is given. */
  readonly parts: MemoryPart[]
  readonly traffic: Guest['traffic']
  readonly ended: Promise<GuestEnd>
  readonly exited: Promise<void>
  readonly ports: readonly string[]
}

const status = z.object({ status: z.string() })
const chardevs = z.array(z.object({ label: z.string(), 'frontend-open': z.boolean() }))

function guestOf(child: ChildProcess, { qmp, memory, parts, traffic, ended, exited, ports }: Parts): Guest {
  // Read when a bridge takes them; what nobody waits for is not kept.
  const streams = new Map(ports.map((name, index) => [name, streamOf(child, firstPortFd + index)]))
  for (const stream of streams.values()) {
    stream.on('error', () => undefined) // QEMU has ended, which `ended` tells
    stream.resume()
  }
  return {
    memory,
    traffic,
    ended,
    async pause() {
      await qmp.command('stop')
    },
    async resume() {
      await qmp.command('cont')
    },
    async powerButton() {
      await qmp.command('system_powerdown')
    },
    async pressKeys(keys) {
      await qmp.command('send-key', { keys: keys.map((data) => ({ type: 'qcode', data })) })
    },
    async saveDevices(file) {
      await qmp.command('xen-save-devices-state', { filename: path.resolve(file), live: false })
    },
    async limitDisk(place, bytesPerSecond) {
      const none = { bps_rd: 0, bps_wr: 0, iops: 0, iops_rd: 0, iops_wr: 0 }
      await qmp.command('block_set_io_throttle', { device: `disk${place}`, bps: bytesPerSecond, ...none })
    },
    async plugMemory(mib) {
      const base = await nameless(mib * MIB)
      await plugMemory(qmp, parts.length - 1, base, mib * MIB)
      parts.push({ base, bytes: mib * MIB, isOwn: true })
    },
    plugProcessors: (count) => plugProcessors(qmp, count),
    resizeDisk: (place, size) => resizeDisk(qmp, place, size),
    async port(name) {
      const found = chardevs.parse(await qmp.command('query-chardev')).find(({ label }) => label === `port${ports.indexOf(name)}`)
      return found?.['frontend-open'] === true ? streams.get(name) : undefined
    },
    async kill() {
      child.kill('SIGKILL')
      await exited
    },
  }
}

async function loaded(qmp: Qmp): Promise<void> {
  for (const deadline = performance.now() + LOAD_LIMIT_MS; ; await delay(2)) {
    const now = status.parse(await qmp.command('query-status')).status
    if (now === 'paused' || now === 'prelaunch') return
    if (now !== 'inmigrate' || performance.now() > deadline) throw new Error(`the devices could not be loaded: QEMU is ${now}`)
  }
}

/** A file without a name: it is gone when nobody has it open any more. */
async function nameless(bytes: number): Promise<FileHandle> {
  const name = `${process.env['STAND_IN_SCRATCH'] ?? '.'}/vmm-stand-in-${process.pid}-${process.hrtime.bigint()}.tmp`
  const handle = await open(name, 'wx+', 0o600)
  await rm(name)
  await handle.truncate(bytes)
  return handle
}

/** QEMU opens memory for writing, though it maps it privately. In a jail nobody may: there it gets a copy. */
async function openMemory(file: string, bytes: number): Promise<FileHandle> {
  try {
    return await open(file, 'r+')
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && (error.code === 'EROFS' || error.code === 'EACCES'))) throw error
  }
  await using saved = await open(file, 'r')
  const copy = await nameless(bytes)
  await copyData(saved, bytes, copy, file)
  return copy
}

/** What was saved of a piece of memory that was added, behind the parts before it, in a file of its own. */
async function pieceOf(saved: FileHandle, allBytes: number, before: readonly MemoryPart[], bytes: number): Promise<MemoryPart> {
  const begin = before.reduce((sum, part) => sum + part.bytes, 0)
  const base = await nameless(bytes)
  await copyData(saved, Math.min(allBytes, begin + bytes), base, 'memory', 0, begin)
  return { base, bytes, isOwn: true }
}

/** A descriptor of the same file that stands at its beginning. */
async function reopened(handle: FileHandle, files: AsyncDisposableStack): Promise<number> {
  return files.use(await open(`/proc/self/fd/${handle.fd}`, constants.O_RDONLY)).fd
}

function streamOf(child: ChildProcess, fd: number): Duplex {
  const stream = child.stdio[fd]
  if (stream === null || stream === undefined) throw new Error(`QEMU has no descriptor ${fd}`)
  return stream as Duplex
}

function qemuArguments(description: GuestDescription, saved: SavedGuest | undefined): string[] {
  const { boot, network, room } = description
  const pieces = saved?.pieces ?? []
  const firstPieceFd = firstPortFd + description.ports.length
  const started =
    boot === undefined
      ? []
      : [
          '-kernel',
          boot.kernel,
          ...(boot.initrd === undefined ? [] : ['-initrd', boot.initrd]),
          '-append',
          boot.commandLine + growthKernelArguments(room),
        ]
  return [
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-no-shutdown'],
    ...[
      '-global',
      'migration.send-configuration=off',
      '-machine',
      'q35,accel=tcg,memory-backend=mem,suppress-vmdesc=on',
      '-cpu',
      'max,la57=off',
    ],
    ...growthArguments(
      { ...description, room },
      pieces,
      pieces.map((_, index) => firstPieceFd + index),
    ),
    ...['-object', `memory-backend-file,id=mem,size=${description.memoryMib}M,mem-path=/proc/self/fd/${memoryFd},share=off`],
    ...(saved !== undefined ? ['-incoming', `fd:${incomingFd}`, '-S'] : started),
    ...['-chardev', `socket,id=qmp,fd=${controlFd}`, '-mon', 'chardev=qmp,mode=control'],
    ...(writesOwnOutput(description) ? ['-add-fd', `fd=${firstPieceFd + pieces.length},set=1`] : []),
    ...['-chardev', `file,id=console,path=${escaped(description.console)},append=on`, '-serial', 'chardev:console'],
    ...description.disks.flatMap(diskArguments),
    ...['-device', 'virtio-serial-pci'],
    ...virtioConsoleOf(description),
    ...description.ports.flatMap((name, index) => [
      ...['-chardev', `socket,id=port${index},fd=${firstPortFd + index}`],
      ...['-device', `virtserialport,chardev=port${index},name=${name}`],
    ]),
    ...(description.outputs ?? []).flatMap(({ name, file }, index) => [
      ...['-chardev', `file,id=output${index},path=${escaped(path.resolve(file))},append=on`],
      ...['-device', `virtserialport,chardev=output${index},name=${name}`],
    ]),
    ...(network === undefined
      ? []
      : [
          ...['-netdev', `tap,id=net,ifname=${network.tap},script=no,downscript=no`],
          ...['-device', `virtio-net-pci,netdev=net,mac=${network.mac}`],
        ]),
    ...['-object', 'rng-random,id=rng,filename=/dev/urandom', '-device', 'virtio-rng-pci,rng=rng'],
  ]
}

/** A console of the guest, or both, is the stand-in's own standard output. */
function writesOwnOutput({ console, virtioConsole }: GuestDescription): boolean {
  return console === ownOutput || virtioConsole === ownOutput
}

/** It has the first port of the serial device, which is kept for consoles. */
function virtioConsoleOf({ virtioConsole }: GuestDescription): string[] {
  if (virtioConsole === undefined) return []
  return ['-chardev', `file,id=hvc,path=${escaped(virtioConsole)},append=on`, '-device', 'virtconsole,chardev=hvc']
}

/** Unlocked: a stand-in that was killed may still hold its disks for a moment. With one queue, since QEMU would give a device as many as the machine began with processors. */
function diskArguments({ path: file, readOnly, serial, bytesPerSecond }: GuestDisk, place: number): string[] {
  const limit = bytesPerSecond === undefined ? '' : `,throttling.bps-total=${bytesPerSecond}`
  const drive = `if=none,id=disk${place},file.driver=file,file.locking=off,file.filename=${escaped(path.resolve(file))},format=raw,readonly=${readOnly ? 'on' : 'off'}`
  const device = `virtio-blk-pci,drive=disk${place},num-queues=1${serial === undefined ? '' : `,serial=${serial}`}`
  return ['-drive', `${drive},discard=unmap${limit}`, '-device', device]
}

/** A comma ends an option's value unless it is doubled. */
function escaped(file: string): string {
  return file.replaceAll(',', ',,')
}

/** The stand-in's own standard output, for a guest's console: by its descriptor, since a stand-in in a jail may not open what it was given open. */
export const ownOutput = '/dev/fdset/1'
