// Capture, suspend and restore: in which order memory, devices and disks are frozen, and what is undone when a step fails.

import { rm } from 'node:fs/promises'
import path from 'node:path'
import { socketPath } from '../../platform/socket-path.ts'
import { isListening } from '../../platform/unix-http.ts'
import type { AroundPause, CaptureReport, MachineSpec, MemorySnapshots } from '../driver.ts'
import { orFull } from '../full-disk.ts'
import { whilePaused } from '../paused.ts'
import type { Versions } from '../versions.ts'
import { qemuFiles } from './command-line.ts'
import { joinLayers, linkLayers } from './layers.ts'
import { prepareLayer } from './live-layer.ts'
import { earlierStreamEnded, liveRefusal, NotLive, prepareLive } from './live-memory.ts'
import { asQemu, type QemuMachine } from './machine.ts'
import {
  finishImage,
  finishLive,
  holdsImage,
  mappedBase,
  noBase,
  readWholeManifest,
  removeImage,
  removeMapped,
  prepareSave,
  stateFile,
} from './memory.ts'
import { diffsIn } from './memory-diffs.ts'
import { QmpError } from './qmp.ts'
import { startFromImage, type QemuProgram } from './start.ts'

/** Told of a snapshot for which a machine that booted stood still. */
function stoodStill(reason: string | undefined): string {
  const because = reason === undefined ? '' : ` (${reason})`
  return `the guest stood still while all of its memory was copied${because}; later snapshots of its forks, and of it after a restore, copy what changed`
}

export function memorySnapshots(program: QemuProgram, versions: Versions): MemorySnapshots {
  return {
    movable: true,
    tellsPause: true,

    async capture(machine, spec, target, signal, around) {
      const qemu = asQemu(machine)
      const wasRunning = (await qemu.status(signal)) === 'running'
      const isFile = (await mappedBase(qemu.process.pid, ramBytesOf(spec))) !== undefined
      if (!isFile) await earlierStreamEnded(qemu, signal)
      const canGoOn = wasRunning && !isFile
      let refusal = canGoOn ? await liveRefusal(qemu, signal) : program.whyNotLive
      if (canGoOn && refusal === undefined)
        try {
          return await captureLive(qemu, { spec, target, signal, around })
        } catch (error) {
          if (!(error instanceof NotLive)) throw error
          refusal = error.message
          await earlierStreamEnded(qemu, signal)
        }
      const { copiedAll, ...report } = await captureStopped(qemu, { spec, target, signal, around }, wasRunning)
      return copiedAll ? { ...report, note: stoodStill(refusal) } : report
    },

    async suspend(machine, spec, signal): Promise<CaptureReport> {
      const qemu = asQemu(machine)
      const started = performance.now()
      const ramBytes = ramBytesOf(spec)
      const mapped = await mappedBase(qemu.process.pid, ramBytes)
      const keep = mapped ?? noBase
      const { number: layer } = await qemu.activeLayer()
      await using undo = new AsyncDisposableStack()
      const diffs = mapped === undefined ? [] : diffsIn(spec.directory)
      undo.defer(() => forgetImage(spec.directory, keep, diffs))
      await forgetImage(spec.directory, keep, diffs)
      if (mapped === undefined) await earlierStreamEnded(qemu, signal)
      const save = await prepareSave({
        pid: qemu.process.pid,
        ramBytes,
        source: spec.directory,
        target: spec.directory,
        running: false,
        signal,
      })
      const saved = await save(signal)
      await saveDevices(qemu, path.join(spec.directory, stateFile))
      await joinLayers(spec.directory, layer - 1, signal)
      qemu.mayBeSaved = true
      const { memoryBytes } = await finishImage(saved, spec.directory, spec.directory, layer, signal)
      undo.move()
      return { pausedMs: performance.now() - started, memoryBytes }
    },

    async restore(spec, wanted, signal) {
      const writer = await versions.writerOf(wanted)
      return versions.onSameVersion(() => startFromImage({ ...program, command: writer.path }, spec, wanted.version, signal))
    },

    holdsMemory: async (directory) => holdsImage(directory),
    async discardMemory(directory) {
      await removeImage(directory)
      if (!(await isListening(socketPath(directory, qemuFiles.qmp)))) await removeMapped(directory)
    },
    async consumeMemory(directory) {
      const image = await readWholeManifest(directory) // a damaged one goes all the same
      await removeImage(directory, image?.base)
      if (image !== undefined) await removeMapped(directory, image.base, image.diffs)
    },
  }
}

/** What is saved where, and who is told when the machine stands still. */
interface Capture {
  readonly spec: MachineSpec
  readonly target: string
  readonly signal: AbortSignal
  readonly around: AroundPause | undefined
}

/** Freezes a machine, copies what it wrote, and lets it go on. */
async function captureStopped(
  qemu: QemuMachine,
  { spec, target, signal, around }: Capture,
  wasRunning: boolean,
): Promise<CaptureReport & { readonly copiedAll: boolean }> {
  const save = await prepareSave({
    pid: qemu.process.pid,
    ramBytes: ramBytesOf(spec),
    source: spec.directory,
    target,
    running: wasRunning,
    signal,
  })
  await using layer = await prepareLayer(qemu, spec.directory)
  signal.throwIfAborted()
  const { frozen: saved, report } = await whilePaused(qemu, wasRunning, around, async () => {
    const pages = await save(signal)
    await saveDevices(qemu, path.join(target, stateFile))
    // The pivot comes last: if something before it fails, the disk is as it was.
    await layer.pivot()
    return pages
  })
  await joinLayers(spec.directory, layer.below - 1, signal)
  await linkLayers(spec.directory, target, layer.below)
  const { memoryBytes } = await finishImage(saved, spec.directory, target, layer.below, signal)
  return { ...report, memoryBytes, copiedAll: saved.kind === 'base' }
}

/** Freezes a machine whose memory is no file, for its devices alone: what it was in that instant is copied when it runs again, and before it changes. */
async function captureLive(qemu: QemuMachine, { spec, target, signal, around }: Capture): Promise<CaptureReport> {
  await using undo = new AsyncDisposableStack()
  const state = path.join(target, stateFile)
  undo.defer(() => rm(state, { force: true }))
  const layer = undo.use(await prepareLayer(qemu, spec.directory))
  // The first to be undone: before that QEMU may wait for it, and answer nobody.
  const live = undo.use(await prepareLive(qemu, { ramBytes: ramBytesOf(spec), target, signal }))
  const beganMs = await live.begin()
  signal.throwIfAborted()
  const { report } = await whilePaused(qemu, true, around, async () => {
    await live.protect()
    await saveDevices(qemu, state)
    await layer.pivot()
  })
  const memoryBytes = await live.save()
  await live[Symbol.asyncDispose]()
  undo.move()
  await joinLayers(spec.directory, layer.below - 1, signal)
  await linkLayers(spec.directory, target, layer.below)
  await finishLive(spec.directory, target, ramBytesOf(spec), layer.below)
  return { ...report, pausedMs: report.pausedMs + beganMs, memoryBytes }
}

function ramBytesOf(spec: MachineSpec): number {
  return spec.memoryMib * 1024 ** 2
}

async function forgetImage(directory: string, mapped: string, diffs: readonly string[]): Promise<void> {
  await removeImage(directory, mapped)
  await removeMapped(directory, mapped, diffs)
}

/**
 * Devices come after memory, as in QEMU's own migration: what a device may still do in between then shows in its state. No abort cuts
 * this short, since QEMU would go on writing the file.
 */
async function saveDevices(qemu: QemuMachine, filename: string): Promise<void> {
  try {
    await qemu.command('xen-save-devices-state', { filename, live: false })
  } catch (error) {
    throw error instanceof QmpError ? await orFull(path.dirname(filename), error) : error
  }
}
