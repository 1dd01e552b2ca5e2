// What every hypervisor has to do, through the server, with real guests: the rows of the table that `npm run test:hypervisors` prints. In order: later ones go on with the
// machine that the earlier ones made. A hypervisor that lacks a feature has to refuse it by name, and to say so in its capabilities.

import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import path from 'node:path'
import { Readable } from 'node:stream'
import { copyIn, copyOut } from '../../src/client/copy.ts'
import { openExec } from '../../src/client/exec.ts'
import { safeForks } from './hypervisor-safety-scenarios.ts'
import { anotherSizeWhenStopped, growsWhileItRuns } from './hypervisor-size-scenarios.ts'
import { runIn, runMachine, shell, small, untilRunning } from './machine.ts'
import { diskLimit, moves, network, volumes } from './hypervisor-device-scenarios.ts'
import type { Outcome } from './hypervisor-table.ts'
import { refusedWith } from './refused.ts'
import type { TestServer } from './server.ts'
import { countVm } from './vm-count.ts'
import { killVmm, vmmOf, vmmsOf } from './vmm.ts'

export interface HypervisorWorld {
  readonly server: TestServer
  readonly hypervisor: string
  /** Settings that the server was started with. */
  readonly settings: Readonly<Record<string, string>>
  /** As `GET /capabilities` names them. */
  readonly features: ReadonlySet<string>
  /** Fields of a create that only this hypervisor needs. */
  readonly body: Readonly<Record<string, unknown>>
  /** A snapshot ends the connections to the guest's agent, and with them what runs for a client. */
  readonly cutsStreams: boolean
  /** A machine of this hypervisor that runs; made by the first scenario. */
  machine: string
  /** A snapshot of it, made by another. */
  snapshot: string
}

export interface HypervisorScenario {
  readonly name: string
  /** Part of the usual run of the tests. */
  readonly core: boolean
  readonly run: (world: HypervisorWorld) => Promise<Outcome>
}

const program = 'trap "echo ended > /root/farewell; exit 0" TERM; echo "up $WHO"; while :; do sleep 1 & wait $!; done'

async function boot(world: HypervisorWorld): Promise<void> {
  const { server, hypervisor, body } = world
  world.machine = await runMachine(server, {
    ...body,
    name: `${hypervisor}-source`,
    hypervisor: hypervisor as 'qemu',
    env: { WHO: 'world' },
    hotplug_size: '256MB',
    cmd: ['/bin/sh', '-c', program],
  })
  const made = await server.client.instances.get(world.machine)
  assert.deepEqual([made.hypervisor, made.state], [hypervisor, 'Running'])
  assert.equal(await shell(server, world.machine, 'hostname'), `${hypervisor}-source`)
}

async function logs({ server, machine }: HypervisorWorld): Promise<void> {
  const lines = []
  for await (const line of await server.client.instances.logs(machine, { tail: 10 })) lines.push(line)
  assert.deepEqual(lines, ['up world'])
}

async function exitCode({ server, hypervisor, body }: HypervisorWorld): Promise<void> {
  const { id } = await server.client.instances.create({
    ...small,
    ...body,
    name: `${hypervisor}-ends`,
    hypervisor: hypervisor as 'qemu',
    cmd: ['/bin/sh', '-c', 'echo oops >&2; exit 3'],
  })
  countVm('boot')
  assert.equal((await server.client.instances.wait(id, { state: 'Stopped', timeout: '2m' })).state, 'Stopped')
  assert.equal((await server.client.instances.get(id)).exit_code, 3)
  await server.client.instances.delete(id)
}

async function exec({ server, machine }: HypervisorWorld): Promise<void> {
  assert.deepEqual(await runIn(server, machine, 'echo out; echo err >&2; exit 7'), { output: 'out\nerr', exitCode: 7 })
  assert.equal((await shell(server, machine, 'head -c 3000000 /dev/zero | tr "\\0" x')).length, 3_000_000)
}

async function copy({ server, machine }: HypervisorWorld): Promise<void> {
  const endpoint = { baseUrl: server.url, token: server.token }
  const soon = AbortSignal.timeout(120_000)
  const bytes = Buffer.from('what goes in comes out\n'.repeat(20_000))
  await copyIn(endpoint, machine, { path: '/root/copied/file', directory: false, mode: 0o600 }, Readable.from([bytes]), soon)
  assert.equal(await shell(server, machine, 'wc -c < /root/copied/file'), String(bytes.length))
  const chunks: Buffer[] = []
  for await (const { body } of copyOut(endpoint, machine, { path: '/root/copied/file', followLinks: false }, soon))
    for await (const chunk of body) chunks.push(chunk)
  assert.equal(Buffer.compare(Buffer.concat(chunks), bytes), 0)
}

/** A program that counts, and two files; kept apart by what comes later. */
const remember =
  'echo memory > /run/kept; echo disk > /root/kept; (i=0; while :; do i=$((i+1)); echo $i > /run/clock; sleep 0.1; done) >/dev/null 2>&1 &'
const goesOn = 'was=$(cat /run/clock); until [ "$(cat /run/clock)" != "$was" ]; do sleep 0.1; done'

async function standbyAndRestore({ server, machine }: HypervisorWorld): Promise<void> {
  await shell(server, machine, remember)
  for (const round of [1, 2]) {
    assert.equal((await server.client.instances.standby(machine)).state, 'Standby')
    assert.throws(() => vmmOf(server, machine), /no VMM/)
    assert.equal((await server.client.instances.restore(machine)).state, 'Running')
    countVm('restore')
    assert.equal(await shell(server, machine, 'cat /run/kept /root/kept'), 'memory\ndisk', `round ${round}`)
    await shell(server, machine, goesOn)
  }
}

async function snapshotWhileItRuns(world: HypervisorWorld): Promise<void> {
  const { server, machine } = world
  using running = await openExec(
    { baseUrl: server.url, token: server.token },
    machine,
    { command: ['/bin/sh', '-c', 'echo begun; until [ -e /run/go ]; do sleep 0.1; done; echo done'], tty: false },
    AbortSignal.timeout(120_000),
  )
  const outputs = running.outputs()[Symbol.asyncIterator]()
  const next = async (): Promise<string> => {
    const { value } = await outputs.next()
    return value === undefined || value.kind === 'exit' ? '' : value.data.toString()
  }
  assert.equal(await next(), 'begun\n')
  const vmm = vmmOf(server, machine)
  await shell(server, machine, 'echo before > /run/instant; echo before > /root/instant; sync')
  world.snapshot = (await server.client.instances.snapshots.create(machine, { kind: 'Standby', name: 'base' })).id
  assert.equal(vmmOf(server, machine), vmm)
  await shell(server, machine, 'echo after > /run/instant; echo after > /root/instant; touch /run/go')
  if (!world.cutsStreams) assert.equal(await next(), 'done\n')
  await shell(server, machine, goesOn)
}

/** A fork for one scenario. */
async function fork(
  { server, hypervisor }: HypervisorWorld,
  snapshot: string,
  name: string,
  options: Omit<Parameters<TestServer['client']['snapshots']['fork']>[1], 'name'> = {},
): Promise<AsyncDisposable & { readonly id: string; readonly state: string }> {
  const made = await server.client.snapshots.fork(snapshot, { name: `${hypervisor}-${name}`, ...options })
  if (made.state === 'Running') countVm('fork')
  return { id: made.id, state: made.state, [Symbol.asyncDispose]: () => server.client.instances.delete(made.id) }
}

const identity = 'cat /etc/machine-id /proc/sys/kernel/random/boot_id; hostname; head -c 16 /dev/urandom | od -An -tx1'

async function forksAtOnce(world: HypervisorWorld): Promise<void> {
  const { server } = world
  await using forks = new AsyncDisposableStack()
  const made = await Promise.all(['one', 'other', 'third'].map(async (name) => forks.use(await fork(world, world.snapshot, name))))
  const identities = []
  for (const { id, state } of made) {
    assert.equal(state, 'Running')
    assert.equal(await shell(server, id, 'cat /run/instant /root/instant'), 'before\nbefore')
    await shell(server, id, goesOn)
    identities.push((await shell(server, id, identity)).split('\n'))
    await shell(server, id, `echo ${id} > /run/instant; echo ${id} > /root/instant; sync`)
  }
  for (const column of [0, 1, 2, 3]) assert.equal(new Set(identities.map((lines) => lines[column])).size, made.length, `column ${column}`)
  for (const { id } of made) assert.equal(await shell(server, id, 'cat /run/instant /root/instant'), `${id}\n${id}`)
  assert.equal(await shell(server, world.machine, 'cat /run/instant /root/instant'), 'after\nafter')
}

async function snapshotOfAFork(world: HypervisorWorld): Promise<void> {
  const { server } = world
  let id: string
  {
    await using parent = await fork(world, world.snapshot, 'parent')
    await shell(server, parent.id, 'echo child > /run/instant; echo child > /root/instant')
    id = (await server.client.instances.snapshots.create(parent.id, { kind: 'Standby' })).id
  }
  await using grandchild = await fork(world, id, 'grandchild')
  assert.equal(await shell(server, grandchild.id, 'cat /run/instant /root/instant /run/kept /root/kept'), 'child\nchild\nmemory\ndisk')
  await server.client.snapshots.delete(id)
  assert.equal(await shell(server, grandchild.id, 'cat /root/instant'), 'child')
}

async function snapshotInStandby(world: HypervisorWorld): Promise<void> {
  const { server } = world
  await using asleep = await fork(world, world.snapshot, 'asleep', { target_state: 'Standby' })
  assert.equal(asleep.state, 'Standby')
  const { id } = await server.client.instances.snapshots.create(asleep.id, { kind: 'Standby' })
  await using awake = await fork(world, id, 'awake')
  assert.equal(await shell(server, awake.id, 'cat /run/instant'), 'before')
  await server.client.snapshots.delete(id)
}

async function stoppedSnapshot(world: HypervisorWorld): Promise<void> {
  const { server } = world
  await using stopped = await fork(world, world.snapshot, 'stopped', { target_state: 'Stopped' })
  assert.equal(stopped.state, 'Stopped')
  const { id } = await server.client.instances.snapshots.create(stopped.id, { kind: 'Stopped' })
  await using cold = await fork(world, id, 'cold', { target_state: 'Running' })
  await untilRunning(server, cold.id)
  assert.equal(await shell(server, cold.id, 'cat /root/instant; [ ! -e /run/instant ] && echo booted'), 'before\nbooted')
  await server.client.snapshots.delete(id)
}

async function forkOfRunning(world: HypervisorWorld): Promise<void> {
  const { server, machine, hypervisor } = world
  const { id } = await server.client.instances.fork(machine, { name: `${hypervisor}-twin`, from_running: true })
  countVm('fork')
  assert.equal(await shell(server, id, 'cat /run/instant'), 'after')
  await server.client.instances.delete(id)
  assert.equal(await shell(server, machine, 'cat /run/instant'), 'after')
}

async function rollBack({ server, machine, snapshot }: HypervisorWorld): Promise<void> {
  const { client } = server
  await assert.rejects(client.instances.snapshots.restore(snapshot, { id: machine }), refusedWith(409, /./))
  await client.instances.standby(machine)
  assert.equal((await client.instances.snapshots.restore(snapshot, { id: machine })).state, 'Running')
  countVm('restore')
  assert.equal(await shell(server, machine, 'cat /run/instant /root/instant'), 'before\nbefore')
  await shell(server, machine, 'echo later > /run/instant; echo later > /root/instant')
}

/** What fails in the middle leaves everything as it was. */
async function failures(world: HypervisorWorld): Promise<void> {
  const { server, machine, settings } = world
  const { client } = server
  await client.instances.standby(machine)
  const there = await readdir(path.join(server.dataDirectory, 'instances'))
  for (const fault of [
    'instance.fork/load@after',
    'instance.fork/resume@after',
    'snapshot.restore/load@after',
    'snapshot.create/share@after',
  ]) {
    await server.restart({ ...settings, HYPEMAN_FAULTS: `${fault}:throw` })
    const { instances, snapshots } = server.client
    const act = fault.startsWith('instance.fork')
      ? snapshots.fork(world.snapshot, { name: 'never' })
      : fault.startsWith('snapshot.restore')
        ? instances.snapshots.restore(world.snapshot, { id: machine })
        : instances.snapshots.create(machine, { kind: 'Standby', name: 'never' })
    await assert.rejects(act, refusedWith(500, /./), fault)
    assert.deepEqual(await readdir(path.join(server.dataDirectory, 'instances')), there, fault)
    assert.equal((await instances.get(machine)).state, 'Standby', fault)
    assert.deepEqual(vmmsOf(server), [], fault)
  }
  await server.restart({ ...settings })
  await server.client.instances.restore(machine)
  countVm('restore')
  assert.equal(await shell(server, machine, 'cat /run/instant /root/instant'), 'later\nlater')
}

async function serverCrash({ server, machine, settings }: HypervisorWorld): Promise<void> {
  const vmm = vmmOf(server, machine)
  await server.crash()
  await server.restart({ ...settings })
  assert.equal(vmmOf(server, machine), vmm)
  assert.equal(await shell(server, machine, 'cat /run/instant'), 'later')
  await shell(server, machine, goesOn)
}

/** A process that was loaded when the server was killed, and that no record names yet, does not outlive the next start. */
async function strays(world: HypervisorWorld): Promise<void> {
  const { server, machine, snapshot, settings } = world
  await server.restart({ ...settings, HYPEMAN_FAULTS: 'instance.fork/load@after:kill' })
  const known = vmmOf(server, machine)
  await assert.rejects(fork(world, snapshot, 'stray', {}))
  assert.equal(vmmsOf(server).length, 2, 'the server was killed when another machine was loaded')
  await server.restart({ ...settings })
  assert.deepEqual(vmmsOf(server), [known])
}

async function vmmCrash({ server, machine }: HypervisorWorld): Promise<void> {
  await shell(server, machine, 'echo synced > /root/instant; sync')
  await killVmm(server, machine)
  assert.equal((await server.client.instances.wait(machine, { state: 'Stopped', timeout: '20s' })).state, 'Stopped')
  await server.client.instances.start(machine, {})
  await untilRunning(server, machine)
  assert.equal(await shell(server, machine, 'cat /root/instant'), 'synced')
}

async function stopAndStart({ server, machine }: HypervisorWorld): Promise<void> {
  await shell(server, machine, 'rm -f /root/farewell')
  const stopped = await server.client.instances.stop(machine)
  assert.deepEqual([stopped.state, stopped.exit_code], ['Stopped', 0])
  await server.client.instances.start(machine, {})
  await untilRunning(server, machine)
  assert.equal(await shell(server, machine, 'cat /root/farewell'), 'ended')
}

/** Of a scenario that every hypervisor can be put through. */
function done(run: (world: HypervisorWorld) => Promise<void>): HypervisorScenario['run'] {
  return async (world) => {
    await run(world)
    return 'done'
  }
}

export const hypervisorScenarios: readonly HypervisorScenario[] = [
  { name: 'boot', core: true, run: done(boot) },
  { name: 'logs', core: true, run: done(logs) },
  { name: 'exit code', core: false, run: done(exitCode) },
  { name: 'exec', core: true, run: done(exec) },
  { name: 'copy', core: true, run: done(copy) },
  { name: 'standby, restore', core: true, run: done(standbyAndRestore) },
  { name: 'snapshot while it runs', core: true, run: done(snapshotWhileItRuns) },
  { name: 'forks at once', core: true, run: done(forksAtOnce) },
  { name: 'safe forks', core: true, run: done(safeForks) },
  { name: 'snapshot of a fork', core: false, run: done(snapshotOfAFork) },
  { name: 'snapshot in standby', core: false, run: done(snapshotInStandby) },
  { name: 'stopped snapshot', core: true, run: done(stoppedSnapshot) },
  { name: 'fork of a running one', core: false, run: done(forkOfRunning) },
  { name: 'roll back', core: true, run: done(rollBack) },
  { name: 'failures', core: true, run: done(failures) },
  { name: 'server killed', core: true, run: done(serverCrash) },
  { name: 'strays ended', core: true, run: done(strays) },
  { name: 'VMM killed', core: true, run: done(vmmCrash) },
  { name: 'stop, start', core: false, run: done(stopAndStart) },
  { name: 'more while it runs', core: true, run: growsWhileItRuns },
  { name: 'another size', core: true, run: done(anotherSizeWhenStopped) },
  { name: 'volumes', core: false, run: done(volumes) },
  { name: 'disk limit', core: false, run: diskLimit },
  { name: 'network', core: true, run: network },
  { name: 'disk to and from qemu', core: false, run: moves },
]
