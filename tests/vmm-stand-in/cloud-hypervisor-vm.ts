// The states of a Cloud Hypervisor: no machine, created, running, paused. What the real one refuses in each is refused here.

import { existsSync } from 'node:fs'
import { access, constants, readFile, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { configuration, guestOf, whyNotValid, written, type Configuration } from './cloud-hypervisor-config.ts'
import { countersOf } from './cloud-hypervisor-counters.ts'
import type { Guest, startGuest } from './guest.ts'
import { openVsock, type VsockBridge } from './vsock-bridge.ts'

/** An answer of that status; 500 where the description names none. */
export class Refusal extends Error {
  readonly status: number
  constructor(message: string, status = 500) {
    super(message)
    this.status = status
  }
}

export interface VmOptions {
  readonly startGuest: typeof startGuest
  /** Without it memory can't be restored on demand. */
  readonly hasUserfaultfd: boolean
  /** What the description has against a configuration. */
  readonly describes: (config: unknown) => string | undefined
  readonly log: (line: string) => void
  /** Notes an event of the machine's for whoever monitors them. */
  readonly event: (name: string) => void
  readonly end: (code: number) => never
}

export interface CloudHypervisorVm {
  /** Carries out `vm.<name>`; returns the answer's content, or undefined if it has none. */
  handle(name: string, body: unknown): Promise<unknown>
}

const [configFile, stateFile, memoryFile] = ['config.json', 'state.json', 'memory-ranges'] as const
const stateContents = z.object({
  snapshot_data: z.object({ vm: z.object({ devices: z.base64(), pieces: z.array(z.number()) }) }),
})
const restoreParams = z.object({
  source_url: z.string(),
  prefault: z.boolean().default(false),
  memory_restore_mode: z.enum(['Copy', 'OnDemand']).default('Copy'),
  resume: z.boolean().default(false),
})
const resizeParams = z.object({
  desired_vcpus: z.number().optional(),
  desired_ram: z.number().optional(),
  desired_balloon: z.number().optional(),
})

const resizeDiskParams = z.object({ id: z.string(), desired_size: z.number() })

const MIB = 1024 ** 2
/** What memory is added in multiples of, in MiB, and how often it can be added. */
const [PIECE_MIB, MOST_PIECES] = [128, 8] as const

interface Started {
  readonly guest: Guest
  readonly bridge: VsockBridge | undefined
}

export function openVm({ startGuest: start, hasUserfaultfd, describes, log, event, end }: VmOptions): CloudHypervisorVm {
  let config: Configuration | undefined
  let started: Started | undefined
  let state: 'Created' | 'Running' | 'Paused' = 'Created'
  /** Pages that nobody has asked for yet are in the file that it was restored from, and in no snapshot of it. */
  let onDemand = false
  /** Memory that was added since the boot, in MiB. */
  let pieces: readonly number[] = []

  const notCreated = (what: string): Refusal => new Refusal(`${what}: VM is not created`, 404)
  const created = (what: string): Configuration => {
    if (config === undefined) throw notCreated(what)
    return config
  }
  const booted = (what: string): Started => {
    created(what)
    if (started === undefined) throw new Refusal(`${what}: VM is not running`, 405)
    return started
  }

  /** The consoles' files are made anew with the machine, whatever they held. */
  const emptyConsoles = async ({ serial, console: screen }: Configuration): Promise<void> => {
    for (const { mode, file } of [serial, screen]) if (mode === 'File' && typeof file === 'string') await writeFile(file, '')
  }

  const create = async (body: unknown): Promise<void> => {
    if (config !== undefined) throw new Refusal('The VM could not be created: VM is already created')
    const wanted = configuration.parse(body)
    const wrong = whyNotValid(wanted)
    if (wrong !== undefined) throw new Refusal(`The VM could not be created: Error validating VM configuration: ${wrong}`)
    await emptyConsoles(wanted)
    config = wanted
  }

  const demandDisks = async ({ disks, payload }: Configuration, boots: boolean): Promise<void> => {
    const files = [
      ...(disks ?? []).map((one) => [one.path, one.readonly] as const),
      ...(boots ? [payload.kernel, payload.initramfs].flatMap((one) => (typeof one === 'string' ? [[one, true] as const] : [])) : []),
    ]
    for (const [file, readOnly] of files)
      await access(file, readOnly ? constants.R_OK : constants.R_OK | constants.W_OK).catch((error: NodeJS.ErrnoException) => {
        throw new Refusal(`Error from device manager: cannot open ${file}: ${error.code ?? ''}`)
      })
  }

  const run = async (wanted: Configuration, saved?: Parameters<typeof start>[1]): Promise<void> => {
    await demandDisks(wanted, saved === undefined)
    const socket = wanted.vsock?.socket
    if (socket !== undefined && existsSync(socket))
      throw new Refusal(`Error creating vsock backend: ${socket}: Address in use (os error 98)`)
    const bridge = socket === undefined ? undefined : await openVsock(socket, () => started?.guest)
    const guest = await start(guestOf(wanted, saved === undefined, saved?.pieces), saved).catch((error: unknown) => {
      bridge?.close()
      throw new Refusal(`Could not start the guest: ${String(error)}`)
    })
    started = { guest, bridge }
    watch(guest, wanted)
  }

  /** A guest that turns itself off ends the process; one that resets is booted again in it. */
  const watch = (guest: Guest, of: Configuration): void => {
    const act = async (): Promise<void> => {
      const how = await guest.ended
      if (started?.guest !== guest) return
      log(`the guest has ended: ${how}`)
      if (how !== 'reset') return end(how === 'off' ? 0 : 1)
      event('rebooting')
      const { bridge } = started
      started = undefined
      bridge?.close()
      await guest.kill()
      if (of.vsock !== null && of.vsock !== undefined) await rm(of.vsock.socket, { force: true })
      onDemand = false
      pieces = []
      await run(config ?? of)
      state = 'Running'
      event('rebooted')
    }
    act().catch((error: unknown) => {
      log(String(error))
      end(1)
    })
  }

  const boot = async (): Promise<void> => {
    const wanted = created('The VM could not boot')
    if (started !== undefined) throw new Refusal(`The VM could not boot: InvalidStateTransition(${state}, Running)`)
    if ((wanted.payload.kernel ?? '') === '') throw new Refusal('The VM could not boot: no payload to boot')
    event('booting')
    await run(wanted)
    state = 'Running'
    event('booted')
  }

  const change = async (name: 'pause' | 'resume'): Promise<void> => {
    const { guest } = booted(`The VM could not ${name}`)
    const wanted = name === 'pause' ? 'Paused' : 'Running'
    if (state === wanted) throw new Refusal(`The VM could not ${name}: InvalidStateTransition(${state}, ${wanted})`, 405)
    await guest[name]()
    state = wanted
  }

  const snapshot = async (body: unknown): Promise<void> => {
    const { guest } = booted('The VM could not be snapshotted')
    const directory = directoryOf(z.object({ destination_url: z.string() }).parse(body).destination_url)
    if (state !== 'Paused') throw new Refusal('The VM could not be snapshotted: VM is not paused', 405)
    if (!existsSync(directory)) throw new Refusal(`The VM could not be snapshotted: ${directory}: No such file or directory (os error 2)`)
    const at = (name: string): string => path.join(directory, name)
    for (const name of [configFile, stateFile, memoryFile])
      if (existsSync(at(name))) throw new Refusal(`The VM could not be snapshotted: ${at(name)}: File exists (os error 17)`)
    await writeFile(at(configFile), JSON.stringify(written(created('The VM could not be snapshotted'))), { mode: 0o600 })
    await (onDemand ? guest.memory.saveOwn(at(memoryFile)) : guest.memory.saveAll(at(memoryFile)))
    await guest.saveDevices(at(stateFile))
    const devices = (await readFile(at(stateFile))).toString('base64')
    await writeFile(at(stateFile), JSON.stringify({ id: 'vm', snapshot_data: { vm: { devices, pieces } } }), { mode: 0o600 })
  }

  const restore = async (body: unknown): Promise<void> => {
    if (config !== undefined) throw new Refusal('The VM could not be restored: VM is already created', 404)
    const params = restoreParams.parse(body)
    const failed = (what: string): Refusal => new Refusal(`The VM could not be restored: ${what}`)
    const lazy = params.memory_restore_mode === 'OnDemand'
    if (lazy && params.prefault) throw new Refusal('The VM could not be restored: prefault can not be combined with on demand memory', 400)
    if (lazy && !hasUserfaultfd) throw failed('Error creating userfaultfd: Operation not permitted (os error 1)')
    const directory = directoryOf(params.source_url)
    const read = (name: string): Promise<string> =>
      readFile(path.join(directory, name), 'utf8').catch((error: NodeJS.ErrnoException) => {
        throw failed(`cannot read ${name}: ${error.code ?? ''}`)
      })
    const saved = parseJson(await read(configFile))
    const wrong = describes(saved)
    if (wrong !== undefined) throw failed(`Failed to deserialize JSON: ${wrong}`)
    const wanted = configuration.parse(saved)
    const invalid = whyNotValid(wanted)
    if (invalid !== undefined) throw failed(invalid)
    const contents = stateContents.safeParse(parseJson(await read(stateFile)))
    if (!contents.success) throw failed('Failed to deserialize JSON: state')
    const memory = path.join(directory, memoryFile)
    if (!existsSync(memory)) throw failed(`cannot open ${memoryFile}`)
    await emptyConsoles(wanted)
    config = wanted
    try {
      const { devices, pieces: plugged } = contents.data.snapshot_data.vm
      await run(wanted, { memoryFile: memory, devices: Buffer.from(devices, 'base64'), pieces: plugged })
      pieces = plugged
    } catch (error) {
      config = undefined
      throw error
    }
    onDemand = lazy
    state = 'Paused'
    if (params.resume) await change('resume')
  }

  const stop = async (): Promise<void> => {
    const { guest, bridge } = booted('The VM could not shut down')
    started = undefined
    bridge?.close()
    await guest.kill()
    state = 'Created'
  }

  const resize = async (body: unknown): Promise<void> => {
    const wanted = created('The VM could not be resized')
    const { desired_vcpus: vcpus, desired_ram: ram, desired_balloon: balloon } = resizeParams.parse(body)
    if (vcpus !== undefined && vcpus > wanted.cpus.max_vcpus)
      throw new Refusal('The VM could not be resized: Desired vCPUs exceed the maximum')
    if (vcpus !== undefined && vcpus < wanted.cpus.boot_vcpus) throw new Refusal('the stand-in takes no processors away')
    if (ram !== undefined) await plug(wanted, ram)
    if (vcpus !== undefined) {
      await booted('The VM could not be resized').guest.plugProcessors(vcpus)
      config = { ...created('The VM could not be resized'), cpus: { ...wanted.cpus, boot_vcpus: vcpus } }
    }
    if (balloon === undefined) return
    if (wanted.balloon === null || wanted.balloon === undefined) throw new Refusal('The VM could not be resized: Missing balloon device')
    if (balloon > wanted.memory.size) throw new Refusal('The VM could not be resized: the balloon is larger than memory')
    config = { ...wanted, balloon: { ...wanted.balloon, size: balloon } }
  }

  /** As by the ACPI method: each piece needs a slot, and begins at the next multiple of 128 MiB. */
  const plug = async (wanted: Configuration, ram: number): Promise<void> => {
    const failed = (what: string): Refusal => new Refusal(`The VM could not be resized: Memory manager error: ${what}`)
    const { size, hotplug_size: room, hotplug_method: method } = wanted.memory
    if (method !== 'Acpi') throw new Refusal('the stand-in adds memory by the ACPI method alone')
    if (ram < size) throw new Refusal('the stand-in takes no memory away')
    if (ram === size) return
    const mib = (ram - size) / MIB
    if (mib % PIECE_MIB !== 0) throw failed('the size is no multiple of 128 MiB')
    if (pieces.length === MOST_PIECES) throw failed('no slot is available')
    const taken = [...pieces, mib].reduce((sum, one) => sum + one + PIECE_MIB, 0)
    if (taken * MIB > (room ?? 0)) throw failed('insufficient room for hotplug')
    await booted('The VM could not be resized').guest.plugMemory(mib)
    pieces = [...pieces, mib]
    config = { ...created('The VM could not be resized'), memory: { ...wanted.memory, size: ram } }
  }

  const resizeDisk = async (body: unknown): Promise<void> => {
    const { id, desired_size: bytes } = resizeDiskParams.parse(body)
    const place = (created('The disk could not be resized').disks ?? []).findIndex((one) => one.id === id)
    if (place < 0) throw new Refusal(`The disk could not be resized: no disk ${id}`, 404)
    await booted('The disk could not be resized').guest.resizeDisk(place, bytes)
  }

  return {
    async handle(name, body) {
      switch (name) {
        case 'vm.info': {
          const of = created('The VM info is not available')
          // The guests have no balloon driver: they give nothing back.
          return { config: written(of), state, memory_actual_size: of.memory.size }
        }
        case 'vm.counters':
          return countersOf(created('The counters are not available'), await booted('The counters are not available').guest.traffic())
        case 'vm.create':
          return create(body)
        case 'vm.boot':
          return boot()
        case 'vm.pause':
          return change('pause')
        case 'vm.resume':
          return change('resume')
        case 'vm.snapshot':
          return snapshot(body)
        case 'vm.restore':
          return restore(body)
        case 'vm.power-button':
          return booted('The power button could not be pressed').guest.powerButton()
        case 'vm.shutdown':
          return stop()
        case 'vm.delete':
          if (started !== undefined) await stop()
          config = undefined
          return undefined
        case 'vm.resize':
          return resize(body)
        case 'vm.resize-disk':
          return resizeDisk(body)
        default:
          throw new Refusal(`the stand-in does not serve ${name}`)
      }
    },
  }
}

function directoryOf(url: string): string {
  if (!url.startsWith('file://')) throw new Refusal(`the URL ${url} does not begin with file://`)
  return url.slice('file://'.length)
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
