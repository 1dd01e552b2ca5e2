// The states of a Firecracker: being configured, running, paused. What the real one refuses in each is refused here, with a `fault_message` of its kind.

import { existsSync } from 'node:fs'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { z } from 'zod'
import {
  balloon,
  balloonStatistics,
  balloonUpdate,
  bootSource,
  bytesPerSecond,
  configuration,
  drive,
  fullConfig,
  guestOf,
  inOrder,
  isElf,
  machineConfig,
  networkInterface,
  rateLimiter,
  vsock,
  whyNotOpened,
  whyTooMany,
  type Configuration,
} from './firecracker-config.ts'
import { ownOutput, type Guest, type startGuest } from './guest.ts'
import { openVsock, vsockPorts, type VsockBridge } from './vsock-bridge.ts'

/** Of the state files: another one is not loaded. */
export const snapshotVersion = '8.0.0'

/** A refusal, 400; `ends`: the process ends after it, as the real one's does after a load that failed. */
export class Fault extends Error {
  readonly ends: boolean
  constructor(message: string, ends = false) {
    super(message)
    this.ends = ends
  }
}

export interface VmOptions {
  readonly startGuest: typeof startGuest
  readonly id: string
  readonly version: string
  readonly log: (line: string) => void
  readonly end: (code: number) => never
}

export interface FirecrackerVm {
  /** Returns the answer's content, or undefined if it has none. A `Fault` is a refusal. */
  handle(method: string, url: string, body: unknown): Promise<unknown>
}

const createParams = z.object({
  snapshot_type: z.enum(['Full', 'Diff']).default('Full'),
  snapshot_path: z.string(),
  mem_file_path: z.string(),
})
const loadParams = z.object({
  snapshot_path: z.string(),
  mem_backend: z.object({ backend_type: z.enum(['File', 'Uffd']), backend_path: z.string() }).optional(),
  mem_file_path: z.string().optional(),
  track_dirty_pages: z.boolean().default(false),
  enable_diff_snapshots: z.boolean().default(false),
  resume_vm: z.boolean().default(false),
  network_overrides: z.array(z.object({ iface_id: z.string(), host_dev_name: z.string() })).default([]),
  vsock_override: z.object({ uds_path: z.string() }).optional(),
})
const stateHeader = z.object({ version: z.string(), configuration })

const notBefore = 'The requested operation is not supported before starting the microVM.'
const notAfter = 'The requested operation is not supported after starting the microVM.'
/** What a kernel under emulation has to be told, which finds no timer to measure others by on a busy host. Firecracker adds its own arguments, too. */
const emulatedArguments = 'no_timer_check tsc=reliable'
const ports = [...vsockPorts.values()]

export function openVm({ startGuest: start, id, version, log, end }: VmOptions): FirecrackerVm {
  let config: Configuration = { machine: machineConfig.parse({}), drives: [], networks: [], entropy: false }
  let boot: z.infer<typeof bootSource> | undefined
  let configured = false
  let guest: Guest | undefined
  let bridge: VsockBridge | undefined
  let paused = false

  const watch = (started: Guest): void => {
    guest = started
    started.ended.then(
      async (how) => {
        log(`the guest has ended: ${how}`)
        // A guest that turned itself off has halted its processors: the process goes on.
        if (how === 'off') return
        if (how === 'reset') await started.kill()
        end(how === 'reset' ? 0 : 1)
      },
      () => end(1),
    )
  }
  const running = (): Guest => {
    if (guest === undefined) throw new Fault(notBefore)
    return guest
  }
  const configure = (change: Partial<Configuration>): void => {
    if (guest !== undefined) throw new Fault(notAfter)
    configured = true
    config = { ...config, ...change }
  }
  const listen = async (socketPath: string): Promise<void> => {
    if (existsSync(socketPath))
      throw new Fault('Cannot create backend for vsock device: Error binding to the host-side Unix socket: Address in use (os error 98)')
    bridge = await openVsock(socketPath, () => guest)
  }

  const startInstance = async (): Promise<void> => {
    if (guest !== undefined) throw new Fault(notAfter)
    if (boot === undefined) throw new Fault('Cannot start microvm without kernel configuration.')
    if (!isElf(boot.kernel_image_path)) throw new Fault('Kernel Loader: failed to load ELF kernel image: Invalid ELF magic number')
    const tooMany = whyTooMany(config)
    if (tooMany !== undefined) throw new Fault(`Cannot start microvm: ${tooMany}`)
    const initrd = boot.initrd_path === undefined ? {} : { initrd: boot.initrd_path }
    const from = { kernel: boot.kernel_image_path, commandLine: `${boot.boot_args} ${emulatedArguments}`, ...initrd }
    watch(await start(guestOf(config, { boot: from, console: ownOutput, ports })))
  }

  const create = async (body: unknown): Promise<void> => {
    const params = createParams.parse(body)
    const frozen = running()
    if (!paused) throw new Fault('Create snapshot error: the microVM must be paused before a snapshot is created.')
    if (params.snapshot_type === 'Diff' && !config.machine.track_dirty_pages)
      throw new Fault('Create snapshot error: Diff snapshots are not allowed on uVMs with dirty page tracking disabled.')
    // The device tells the guest that its connections are gone.
    bridge?.reset()
    try {
      await (params.snapshot_type === 'Full'
        ? frozen.memory.saveAll(params.mem_file_path)
        : frozen.memory.saveChanges(params.mem_file_path))
      await frozen.saveDevices(params.snapshot_path)
    } catch (error) {
      throw new Fault(`Create snapshot error: ${String(error)}`)
    }
    const devices = await readFile(params.snapshot_path)
    const header = JSON.stringify({ version: snapshotVersion, configuration: config } satisfies z.infer<typeof stateHeader>)
    await rm(params.snapshot_path)
    await writeFile(params.snapshot_path, Buffer.concat([Buffer.from(`${header}\n`), devices]), { mode: 0o600 })
  }

  const load = async (body: unknown): Promise<void> => {
    if (guest !== undefined) throw new Fault(notAfter)
    if (configured) throw new Fault('Loading a microVM snapshot not allowed after configuring boot-specific resources.')
    const params = loadParams.parse(body)
    if ((params.mem_backend === undefined) === (params.mem_file_path === undefined))
      throw new Fault('exactly one of mem_backend and mem_file_path is wanted')
    if (params.mem_backend?.backend_type === 'Uffd') throw new Fault('the stand-in has no page fault handlers')
    const failed = (what: string): Fault => new Fault(`Load snapshot error: Failed to restore from snapshot: ${what}`, true)
    const state = await readFile(params.snapshot_path).catch(() => undefined)
    const end = state?.indexOf(0x0a) ?? -1
    if (state === undefined || end < 0) throw failed(`Failed to load snapshot state from file: ${params.snapshot_path}`)
    const header = stateHeader.safeParse(parseJson(state.toString('utf8', 0, end)))
    if (!header.success) throw failed('Failed to load snapshot state from file: CRC64 validation failed')
    if (header.data.version !== snapshotVersion) throw failed(`Invalid snapshot version: ${header.data.version}`)
    config = restored(header.data.configuration, params)
    for (const one of config.drives) {
      const problem = whyNotOpened(one.path_on_host, one.is_read_only)
      if (problem !== undefined) throw failed(`Error manipulating the backing file: ${problem} ${one.path_on_host}`)
    }
    if (config.vsock !== undefined)
      await listen(config.vsock.uds_path).catch((error: unknown) => {
        throw failed(String(error))
      })
    const memoryFile = params.mem_backend?.backend_path ?? params.mem_file_path ?? ''
    const saved = { memoryFile, devices: state.subarray(end + 1) }
    watch(
      await start(guestOf(config, { console: ownOutput, ports }), saved).catch((error: unknown) => {
        throw failed(String(error))
      }),
    )
    paused = true
    if (params.resume_vm) await change('Resumed')
  }

  const restored = (saved: Configuration, params: z.infer<typeof loadParams>): Configuration => {
    const networks = saved.networks.map((one) => ({
      ...one,
      ...params.network_overrides.find(({ iface_id: name }) => name === one.iface_id),
    }))
    for (const { iface_id: name } of params.network_overrides)
      if (!saved.networks.some((one) => one.iface_id === name))
        throw new Fault(`Load snapshot error: Unknown Network Device: ${name}`, true)
    const machine = { ...saved.machine, track_dirty_pages: params.track_dirty_pages || params.enable_diff_snapshots }
    return { ...saved, machine, networks, ...(saved.vsock === undefined ? {} : { vsock: { ...saved.vsock, ...params.vsock_override } }) }
  }

  const change = async (state: string): Promise<void> => {
    await (state === 'Paused' ? running().pause() : running().resume())
    paused = state === 'Paused'
  }

  const putDrive = (body: unknown): void => {
    const wanted = drive.parse(body)
    const problem = whyNotOpened(wanted.path_on_host, wanted.is_read_only)
    if (problem !== undefined)
      throw new Fault(`Unable to create the virtio block device: Error manipulating the backing file: ${problem} ${wanted.path_on_host}`)
    const others = config.drives.filter(({ drive_id: name }) => name !== wanted.drive_id)
    if (wanted.is_root_device && others.some(({ is_root_device: root }) => root)) throw new Fault('A root block device already exists!')
    configure({ drives: [...others, wanted] })
  }

  const patchDrive = async (name: string, body: unknown): Promise<void> => {
    const wanted = z.object({ rate_limiter: rateLimiter.optional() }).parse(body)
    const place = inOrder(config.drives).findIndex((one) => one.drive_id === name)
    if (place < 0) throw new Fault(`Invalid device ID: ${name}`)
    if (wanted.rate_limiter !== undefined) await running().limitDisk(place, bytesPerSecond(wanted.rate_limiter) ?? 0)
  }

  const theBalloon = (): NonNullable<Configuration['balloon']> => {
    if (config.balloon === undefined) throw new Fault('No balloon device found.')
    return config.balloon
  }

  const patchBalloon = (name: string, body: unknown): void => {
    if (name !== '') throw new Fault('the stand-in does not change how often statistics are taken')
    const { amount_mib: amount } = balloonUpdate.parse(body)
    if (amount > config.machine.mem_size_mib) throw new Fault('Amount of pages requested is too large.')
    config = { ...config, balloon: { ...theBalloon(), amount_mib: amount } }
  }

  const act = async (type: string): Promise<void> => {
    if (type === 'InstanceStart') return startInstance()
    if (type === 'SendCtrlAltDel') return running().pressKeys(['ctrl', 'alt', 'delete'])
    running()
  }

  return {
    async handle(method, url, body) {
      const [, resource = '', name = ''] = url.split('/')
      switch (`${method} /${resource}`) {
        case 'GET /':
          return {
            app_name: 'Firecracker',
            id,
            state: guest === undefined ? 'Not started' : paused ? 'Paused' : 'Running',
            vmm_version: version,
          }
        case 'GET /version':
          return { firecracker_version: version }
        case 'GET /vm':
          return fullConfig(config)
        case 'GET /machine-config':
          return config.machine
        case 'PUT /machine-config':
          return configure({ machine: machineConfig.parse(body) })
        case 'PUT /boot-source': {
          const wanted = bootSource.parse(body)
          for (const file of [wanted.kernel_image_path, wanted.initrd_path ?? wanted.kernel_image_path]) {
            const problem = whyNotOpened(file, true)
            if (problem !== undefined) throw new Fault(`The kernel file cannot be opened: ${problem}`)
          }
          configure({})
          boot = wanted
          return undefined
        }
        case 'PUT /drives':
          return putDrive(body)
        case 'PATCH /drives':
          return patchDrive(name, body)
        case 'PUT /network-interfaces': {
          const wanted = networkInterface.parse(body)
          return configure({ networks: [...config.networks.filter((one) => one.iface_id !== wanted.iface_id), wanted] })
        }
        case 'PATCH /network-interfaces':
          return void running()
        case 'PUT /vsock': {
          const wanted = vsock.parse(body)
          configure({ vsock: wanted })
          return listen(wanted.uds_path)
        }
        case 'PUT /entropy':
          return configure({ entropy: true })
        case 'PUT /balloon':
          return configure({ balloon: balloon.parse(body) })
        case 'GET /balloon':
          if (name === 'statistics' && theBalloon().stats_polling_interval_s === 0)
            throw new Fault('Statistics for the balloon device are not enabled')
          return name === 'statistics' ? balloonStatistics(theBalloon()) : theBalloon()
        case 'PATCH /balloon':
          return patchBalloon(name, body)
        case 'PUT /logger':
        case 'PUT /metrics':
          if (guest !== undefined) throw new Fault(notAfter)
          return undefined
        case 'PUT /actions':
          return act(z.object({ action_type: z.string() }).parse(body).action_type)
        case 'PATCH /vm':
          return change(z.object({ state: z.string() }).parse(body).state)
        case 'PUT /snapshot':
          return name === 'create' ? create(body) : load(body)
        default:
          throw new Fault(`the stand-in does not serve ${method} ${url}`)
      }
    },
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
