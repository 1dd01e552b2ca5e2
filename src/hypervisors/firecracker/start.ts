// Starts Firecracker processes: cold, or from a memory image. A start that fails leaves no process and no socket, and says what Firecracker said.

import { open } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { HypemanError } from '../../api/errors.ts'
import { removeFile } from '../../files/stage.ts'
import type { Binary } from '../../platform/binaries.ts'
import { messageOf } from '../../platform/flow.ts'
import { spawnDetached, type DetachedProcess } from '../../platform/process.ts'
import { socketPath } from '../../platform/socket-path.ts'
import { firstAnswer } from '../../platform/unix-http.ts'
import type { MachineSpec } from '../driver.ts'
import { replacedProgram } from '../versions.ts'
import { listenToLog, startFailure } from '../vmm-log.ts'
import { ownDisk, takeBackFrozen, thawDisk } from './disks.ts'
import { ask, MEMORY_LIMIT_MS } from './api.ts'
import { bootRequests, drivesOf, limitRequests, loadRequest, type Drive } from './configuration.ts'
import { firecrackerFiles, memoryFiles } from './files.ts'
import { jailedCommand, newJail, removeJail, type Jailer } from './jail.ts'
import { FirecrackerMachine } from './machine.ts'
import { checkedManifest, countFromImage, countFromNothing, discardImage, forgetCount } from './memory.ts'

export interface Program extends Binary {
  /** What it is started by; undefined: it runs as the server's user. */
  readonly jailer?: Jailer | undefined
  /** Until a started process must answer for the first time, in milliseconds. */
  readonly startLimitMs?: number | undefined
}

const START_LIMIT_MS = 30_000

/** `kernel` is an uncompressed one. */
export async function startCold(program: Program, spec: MachineSpec, kernel: string, signal: AbortSignal): Promise<FirecrackerMachine> {
  demandSockets(program, spec)
  await discardImage(spec.directory)
  await ownDisk(spec.directory, signal)
  await using undo = new AsyncDisposableStack()
  undo.defer(() => forgetCount(spec.directory))
  await countFromNothing(spec.directory, spec.memoryMib * 1024 ** 2)
  const started = await launch(program, spec, [kernel, spec.initrd], signal, async (machine) => {
    for (const request of bootRequests(spec, kernel)) await machine.ask({ ...request, signal })
    await machine.ask({ method: 'PUT', path: '/actions', body: { action_type: 'InstanceStart' }, signal })
    machine.followLog(0)
  })
  undo.move()
  return started
}

/** The process comes up paused, with memory, devices and disk of the image's instant; it writes to a copy of that disk. */
export async function startFromImage(program: Program, spec: MachineSpec, signal: AbortSignal): Promise<FirecrackerMachine> {
  demandSockets(program, spec)
  const image = await checkedManifest(spec.directory)
  if (image.ramBytes !== spec.memoryMib * 1024 ** 2)
    throw new HypemanError(
      'conflict',
      `the memory image has ${image.ramBytes} bytes, the instance ${spec.memoryMib} MiB; start it from its disks`,
    )
  await using undo = new AsyncDisposableStack()
  undo.defer(() => takeBackFrozen(spec.directory))
  await thawDisk(spec.directory, signal)
  undo.defer(() => forgetCount(spec.directory))
  await countFromImage(spec.directory)
  const files = { state: memoryFiles.state, memory: memoryFiles.image }
  const started = await launch(program, spec, Object.values(files), signal, async (machine) => {
    await machine.ask({ ...loadRequest(spec, files), limitMs: MEMORY_LIMIT_MS, signal })
    await demandOwnDisks(machine, spec, signal)
    for (const request of limitRequests(spec)) await machine.ask({ ...request, signal })
    machine.followLogOnceResumed(image.logged)
  })
  undo.move()
  return started
}

const loadedConfig = z.object({
  drives: z.array(
    // A disk of another process's (vhost-user) has no path.
    z.object({ drive_id: z.string(), path_on_host: z.string().nullish(), is_read_only: z.boolean().nullish() }),
  ),
  pmem: z.array(z.object({ path_on_host: z.string() })).nullish(),
})

/** The paths of disks are a part of the state. Those of a state that was not made for this instance could be anything on the host, and a disk that others share must not be written. */
async function demandOwnDisks(machine: FirecrackerMachine, spec: MachineSpec, signal: AbortSignal): Promise<void> {
  const { drives, pmem } = loadedConfig.parse(await machine.ask({ method: 'GET', path: '/vm/config', signal }))
  const wanted = new Map(drivesOf(spec).map((drive) => [drive.drive_id, drive]))
  const what = differenceOf(drives, wanted) ?? (pmem?.[0] === undefined ? undefined : `the memory ${pmem[0].path_on_host}`)
  if (what === undefined) return
  throw new HypemanError(
    'conflict',
    `the memory image in ${spec.directory} has ${what}, which is not this instance's; start it from its disks`,
  )
}

/** What makes the disks of a state others than those that are wanted, in words; undefined if nothing does. */
function differenceOf(drives: z.infer<typeof loadedConfig>['drives'], wanted: ReadonlyMap<string, Drive>): string | undefined {
  for (const { drive_id: id, path_on_host: file, is_read_only: isReadOnly } of drives) {
    const own = wanted.get(id)
    if (own?.path_on_host !== file) return `the disk ${file ?? id}`
    if (own?.is_read_only !== (isReadOnly ?? false)) return `the disk ${file ?? id} ${isReadOnly === true ? 'read-only' : 'writable'}`
  }
  return drives.length === wanted.size ? undefined : `${drives.length} disks instead of ${wanted.size}`
}

/** `reads`: what the process reads besides disks. */
async function launch(
  program: Program,
  spec: MachineSpec,
  reads: readonly string[],
  signal: AbortSignal,
  whenListening: (machine: FirecrackerMachine) => Promise<void>,
): Promise<FirecrackerMachine> {
  await removeSockets(spec.directory)
  const logs = [firecrackerFiles.console, firecrackerFiles.vmm].map((name) => listenToLog(path.join(spec.directory, name)))
  // Firecracker wants the file of its log to be there.
  await using _log = await open(path.join(spec.directory, firecrackerFiles.vmm), 'a', 0o600)
  let machine: FirecrackerMachine | undefined
  try {
    machine = await startProcess(program, spec, reads)
    await expectVersion(machine, program, signal)
    await whenListening(machine)
    return machine
  } catch (error) {
    machine?.release()
    await machine?.kill()
    await removeSockets(spec.directory)
    await removeJail(spec.directory)
    const said = (await Promise.all(logs.map((lines) => lines(2)))).flat()
    throw startFailure(
      error,
      `Firecracker could not start ${spec.instanceId}: ${messageOf(error)}${said.length === 0 ? '' : ` (${said.join('; ')})`}`,
    )
  }
}

async function startProcess(program: Program, spec: MachineSpec, reads: readonly string[]): Promise<FirecrackerMachine> {
  const args = ['--api-sock', firecrackerFiles.api, '--log-path', firecrackerFiles.vmm, '--level', 'Warning']
  // The guest's serial console is its standard output.
  const where = { cwd: spec.directory, logFile: path.join(spec.directory, firecrackerFiles.console) }
  if (program.jailer === undefined) {
    await removeJail(spec.directory)
    // By the id a server that has no record of the process tells whose it was.
    const identity = ['--id', `hypeman-${spec.instanceId}`]
    return new FirecrackerMachine(await spawnDetached({ command: program.path, args: [...args, ...identity], ...where }), spec.directory)
  }
  const jail = newJail()
  let started: DetachedProcess
  try {
    started = await spawnDetached({
      ...(await jailedCommand({ jailer: program.jailer, firecracker: program, spec, jail, reads, args })),
      ...where,
    })
  } catch (error) {
    jail[Symbol.dispose]()
    throw error
  }
  return new FirecrackerMachine(started, spec.directory, { jail })
}

const versionAnswer = z.object({ firecracker_version: z.string() })

/** Its own word for its version counts: the program may have been replaced since it was asked. */
async function expectVersion(
  machine: FirecrackerMachine,
  { version: expected, startLimitMs: limitMs = START_LIMIT_MS }: Program,
  signal: AbortSignal,
): Promise<void> {
  const gone = new AbortController()
  void machine.exited.then(({ reason }) => gone.abort(new HypemanError('host_unavailable', `Firecracker ended: ${reason}`)))
  const either = AbortSignal.any([signal, gone.signal])
  const answer = await firstAnswer(
    async (until, leftMs) => {
      using api = machine.socket(firecrackerFiles.api)
      return await ask(api.path, { method: 'GET', path: '/version', signal: until, limitMs: leftMs })
    },
    { name: 'Firecracker', signal: either, limitMs },
  )
  const { firecracker_version: version } = versionAnswer.parse(answer)
  if (version !== expected) throw replacedProgram('Firecracker', version, expected)
}

/** Before anything is made. Sockets in a jail have short paths. */
function demandSockets({ jailer }: Program, { directory }: MachineSpec): void {
  if (jailer !== undefined) return
  for (const name of [firecrackerFiles.api, firecrackerFiles.vsock]) socketPath(directory, name)
}

async function removeSockets(directory: string): Promise<void> {
  for (const name of [firecrackerFiles.api, firecrackerFiles.vsock]) await removeFile(path.join(directory, name))
}
