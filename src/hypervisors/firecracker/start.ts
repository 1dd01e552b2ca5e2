// Starts Firecracker processes: cold, or from a memory image. A start that fails leaves no process and no socket, and says what Firecracker said.

import { open } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { HypemanError } from '../../api/errors.ts'
import { removeFile } from '../../files/stage.ts'
import type { Binary } from '../../platform/binaries.ts'
import { messageOf } from '../../platform/flow.ts'
import { spawnDetached } from '../../platform/process.ts'
import { socketPath } from '../../platform/socket-path.ts'
import { firstAnswer } from '../../platform/unix-http.ts'
import type { MachineSpec } from '../driver.ts'
import { replacedProgram } from '../versions.ts'
import { listenToLog, startFailure } from '../vmm-log.ts'
import { ownDisk, thawDisk } from './disks.ts'
import { ask, MEMORY_LIMIT_MS } from './api.ts'
import { bootRequests, drivesOf, limitRequests, loadRequest, type Drive } from './configuration.ts'
import { firecrackerFiles, memoryFiles } from './files.ts'
import { FirecrackerMachine } from './machine.ts'
import { checkedManifest, countFromImage, countFromNothing, discardImage, forgetCount } from './memory.ts'

/** Until a started process answers on its socket, in milliseconds. */
const API_LIMIT_MS = 30_000

/** `kernel` is an uncompressed one. */
export async function startCold(binary: Binary, spec: MachineSpec, kernel: string, signal: AbortSignal): Promise<FirecrackerMachine> {
  await discardImage(spec.directory)
  await ownDisk(spec.directory)
  await countFromNothing(spec.directory, spec.memoryMib * 1024 ** 2)
  return launch(binary, spec, signal, async (machine) => {
    for (const request of bootRequests(spec, kernel)) await machine.ask({ ...request, signal })
    await machine.ask({ method: 'PUT', path: '/actions', body: { action_type: 'InstanceStart' }, signal })
    machine.followLog(0)
  })
}

/** The process comes up paused, with memory, devices and disk of the image's instant. */
export async function startFromImage(binary: Binary, spec: MachineSpec, signal: AbortSignal): Promise<FirecrackerMachine> {
  const image = await checkedManifest(spec.directory)
  if (image.ramBytes !== spec.memoryMib * 1024 ** 2)
    throw new HypemanError(
      'conflict',
      `the memory image has ${image.ramBytes} bytes, the instance ${spec.memoryMib} MiB; start it from its disks`,
    )
  await thawDisk(spec.directory)
  await countFromImage(spec.directory)
  return launch(binary, spec, signal, async (machine) => {
    const files = { state: memoryFiles.state, memory: memoryFiles.image }
    await machine.ask({ ...loadRequest(spec, files), limitMs: MEMORY_LIMIT_MS, signal })
    await demandOwnDisks(machine, spec, signal)
    for (const request of limitRequests(spec)) await machine.ask({ ...request, signal })
    machine.followLogOnceResumed(image.logged)
  })
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

async function launch(
  binary: Binary,
  spec: MachineSpec,
  signal: AbortSignal,
  whenListening: (machine: FirecrackerMachine) => Promise<void>,
): Promise<FirecrackerMachine> {
  for (const name of [firecrackerFiles.api, firecrackerFiles.vsock]) socketPath(spec.directory, name)
  await removeSockets(spec.directory)
  const logs = [firecrackerFiles.console, firecrackerFiles.vmm].map((name) => listenToLog(path.join(spec.directory, name)))
  // Firecracker wants the file of its log to be there.
  await using _log = await open(path.join(spec.directory, firecrackerFiles.vmm), 'a', 0o600)
  // By the id a server that has no record of the process tells whose it was.
  const identity = ['--id', `hypeman-${spec.instanceId}`]
  const arguments_ = ['--api-sock', firecrackerFiles.api, ...identity, '--log-path', firecrackerFiles.vmm, '--level', 'Warning']
  let machine: FirecrackerMachine | undefined
  try {
    // The guest's serial console is its standard output.
    const logFile = path.join(spec.directory, firecrackerFiles.console)
    const started = await spawnDetached({ command: binary.path, args: arguments_, cwd: spec.directory, logFile })
    machine = new FirecrackerMachine(started, spec.directory)
    await expectVersion(machine, binary, signal)
    await whenListening(machine)
    return machine
  } catch (error) {
    machine?.release()
    await machine?.kill()
    await forgetCount(spec.directory)
    await removeSockets(spec.directory)
    const said = (await Promise.all(logs.map((lines) => lines(2)))).flat()
    throw startFailure(
      error,
      `Firecracker could not start ${spec.instanceId}: ${messageOf(error)}${said.length === 0 ? '' : ` (${said.join('; ')})`}`,
    )
  }
}

const versionAnswer = z.object({ firecracker_version: z.string() })

/** Its own word for its version counts: the program may have been replaced since it was asked. */
async function expectVersion(machine: FirecrackerMachine, binary: Binary, signal: AbortSignal): Promise<void> {
  const gone = new AbortController()
  void machine.exited.then(({ reason }) => gone.abort(new HypemanError('host_unavailable', `Firecracker ended: ${reason}`)))
  const either = AbortSignal.any([signal, gone.signal])
  const api = socketPath(machine.directory, firecrackerFiles.api)
  const answer = await firstAnswer((until) => ask(api, { method: 'GET', path: '/version', signal: until }), {
    name: 'Firecracker',
    signal: either,
    limitMs: API_LIMIT_MS,
  })
  const { firecracker_version: version } = versionAnswer.parse(answer)
  if (version !== binary.version) throw replacedProgram('Firecracker', version, binary.version)
}

async function removeSockets(directory: string): Promise<void> {
  for (const name of [firecrackerFiles.api, firecrackerFiles.vsock]) await removeFile(path.join(directory, name))
}
