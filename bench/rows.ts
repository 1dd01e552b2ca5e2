// What is measured: each row runs the floor and the product by turns, on one server, and compares their medians.

import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { z } from 'zod'
import { dataLayout, imageFiles, instanceFiles, snapshotFiles, type DataLayout } from '../src/files/layout.ts'
import { digestHex } from '../src/images/index.ts'
import { kernelOf } from '../src/kernels/index.ts'
import { snapshotFormat } from '../src/snapshots/record.ts'
import type { TestServer } from '../tests/support/server.ts'
import { measureCopies } from './copies.ts'
import { bootByHand, forkByHand, type BareSpec, type HandRun } from './floor.ts'
import { measureIndex } from './index-scale.ts'
import { limitRow, median, ratioRow, residentMb, timed, type Bench, type Measurement, type Row } from './measure.ts'

const OVERLAY = '1GB'
const OVERLAY_BYTES = 1024 ** 3
const SERVER_MEMORY_LIMIT_MB = 150
const INSTANCES = 10

export const measurements: readonly Measurement[] = [
  { id: 'fork', run: measureForks },
  { id: 'create', run: measureCreate },
  { id: 'restore', run: measureRestore },
  { id: 'snapshot', run: measureSnapshots },
  { id: 'memory', run: measureMemory },
  { id: 'index', run: measureIndex },
  { id: 'copy', run: measureCopies },
]

/** S1: forks of a small and a large guest, against QEMU by hand; and the two against each other. All four by turns, so that what else the machine does hits them alike. */
async function measureForks(bench: Bench): Promise<Row[]> {
  await using small = await sourceOf(bench, 'fork-small', '256MB')
  await using large = await sourceOf(bench, 'fork-large', '2GB')
  const sizes = [
    { size: '256MB', source: small, ours: [] as number[], floors: [] as number[] },
    { size: '2GB', source: large, ours: [] as number[], floors: [] as number[] },
  ]
  for (let run = 0; run < bench.runs; run += 1) {
    for (const { source, ours, floors } of sizes) {
      floors.push(await readyMsOf(forkByHand(source.layout, source.spec, source.payload)))
      ours.push(await timed(async () => bench.server.client.snapshots.fork(source.snapshotId, { name: `f-${run}` })))
      await bench.server.client.instances.delete(`f-${run}`)
    }
    bench.say(`fork: run ${run + 1} of ${bench.runs}`)
  }
  const ratio = median(sizes[1]?.ours ?? []) / median(sizes[0]?.ours ?? [])
  return [
    ...sizes.map(({ size, ours, floors }) => ratioRow('S1', `fork to agent ready, ${size}`, 1.3, ours, floors)),
    {
      id: 'S1',
      what: 'fork of 2GB against fork of 256MB',
      target: '± 20 %',
      value: ratio,
      unit: '×',
      met: Math.abs(ratio - 1) <= 0.2,
      runs: bench.runs,
      p90: ratio,
    },
  ]
}

/** Cold boots: the product's create, to the agent ready, against QEMU by hand. */
async function measureCreate(bench: Bench): Promise<Row[]> {
  await using source = await sourceOf(bench, 'create', '256MB')
  const [ours, floors]: [number[], number[]] = [[], []]
  for (let run = 0; run < Math.ceil(bench.runs / 2); run += 1) {
    floors.push(await readyMsOf(bootByHand(source.layout, source.spec, OVERLAY_BYTES)))
    ours.push(await timed(() => create(bench, `c-${run}`, '256MB')))
    await bench.server.client.instances.delete(`c-${run}`)
    bench.say(`create: run ${run + 1} of ${Math.ceil(bench.runs / 2)}`)
  }
  return [ratioRow('create', 'create to agent ready, cold', 1.3, ours, floors)]
}

/** S6: standby to running, against the same floor as a fork. */
async function measureRestore(bench: Bench): Promise<Row[]> {
  await using source = await sourceOf(bench, 'restore', '256MB')
  const { client } = bench.server
  const [ours, floors]: [number[], number[]] = [[], []]
  for (let run = 0; run < bench.runs; run += 1) {
    floors.push(await readyMsOf(forkByHand(source.layout, source.spec, source.payload)))
    await client.instances.standby('restore')
    ours.push(await timed(() => client.instances.restore('restore')))
    bench.say(`restore: run ${run + 1} of ${bench.runs}`)
  }
  return [ratioRow('S6', 'standby to agent ready, 256MB', 1.3, ours, floors)]
}

/** S3 and the whole call: the second and later snapshots of a guest that runs from a snapshot. The floor is the pause alone, by hand. */
async function measureSnapshots(bench: Bench): Promise<Row[]> {
  await using source = await sourceOf(bench, 'snapshot', '2GB')
  const { client } = bench.server
  const fork = await client.snapshots.fork(source.snapshotId, { name: 'snapshotted' })
  const [paused, calls, floors]: [number[], number[], number[]] = [[], [], []]
  await using hand = await forkByHand(source.layout, source.spec, source.payload)
  for (let run = 0; run < bench.runs; run += 1) {
    floors.push(await hand.pauseOnce())
    const from = performance.now()
    const taken = await client.instances.snapshots.create(fork.id, { kind: 'Standby' })
    calls.push(performance.now() - from)
    paused.push((taken as { readonly paused_ms?: number }).paused_ms ?? Number.NaN)
    await client.snapshots.delete(taken.id)
    bench.say(`snapshot: run ${run + 1} of ${bench.runs}`)
  }
  await client.instances.delete(fork.id)
  const pause = limitRow('S3', 'source paused by a later snapshot, 2GB', 'ms', 25, paused)
  const call = limitRow('snapshot', 'the whole snapshot call, 2GB', 'ms', 1_000, calls)
  return [
    { ...pause, floor: median(floors), ratio: pause.value / median(floors) },
    { ...call, floor: median(floors), ratio: call.value / median(floors) },
  ]
}

/** The server's own memory with ten machines running. */
async function measureMemory(bench: Bench): Promise<Row[]> {
  await using source = await sourceOf(bench, 'memory', '256MB')
  const names = Array.from({ length: INSTANCES - 1 }, (_, index) => `m-${index}`)
  for (const name of names) await bench.server.client.snapshots.fork(source.snapshotId, { name })
  const resident = await residentMb(bench.server.pid)
  for (const name of names) await bench.server.client.instances.delete(name)
  return [limitRow('memory', `server's resident memory with ${INSTANCES} instances`, 'MB', SERVER_MEMORY_LIMIT_MB, [resident])]
}

interface Source extends AsyncDisposable {
  readonly snapshotId: string
  readonly payload: string
  readonly spec: BareSpec
  readonly layout: DataLayout
}

/** A running instance with a snapshot of it, and what it takes to run that by hand. */
async function sourceOf({ server, say }: Bench, name: string, size: string): Promise<Source> {
  say(`boot ${name}, ${size}`)
  await create({ server }, name, size)
  await settle(server, name)
  const { id: snapshotId } = await server.client.instances.snapshots.create(name, { kind: 'Standby' })
  const layout = dataLayout(server.dataDirectory)
  const directory = layout.snapshot(snapshotId)
  const { instance } = await snapshotFormat.read(path.join(directory, snapshotFiles.record))
  const { kernel, initrd } = kernelOf(layout, instance.kernelId)
  const spec: BareSpec = {
    instanceId: instance.id,
    vcpus: instance.vcpus,
    memoryMib: instance.memoryBytes / 1024 ** 2,
    kernel,
    initrd,
    disks: [{ id: 'rootfs', path: path.join(layout.image(digestHex(instance.image.digest)), imageFiles.rootfs), readOnly: true }],
    network: instance.network === null ? null : { mac: instance.network.mac, ports: [] },
  }
  return {
    snapshotId,
    payload: path.join(directory, snapshotFiles.payload),
    spec,
    layout,
    async [Symbol.asyncDispose]() {
      await server.client.instances.delete(name)
      await server.client.snapshots.delete(snapshotId)
    },
  }
}

const IDLE_LOOK_MS = 500
/** Clock ticks of a VMM in that time that count as idle: proc(5), 100 a second. */
const IDLE_TICKS = 3

/** Waits until a guest that has just booted is idle: what it still has to do, each fork of its snapshot would do again, and a large guest has more of it. */
async function settle(server: TestServer, name: string): Promise<void> {
  const { id } = await server.client.instances.get(name)
  const record = z.object({ process: z.object({ pid: z.int() }) })
  const { process } = record.parse(
    JSON.parse(await readFile(path.join(dataLayout(server.dataDirectory).instance(id), instanceFiles.record), 'utf8')),
  )
  for (let before = Number.NEGATIVE_INFINITY; ;) {
    const ticks = await cpuTicks(process.pid)
    if (ticks - before <= IDLE_TICKS) return
    before = ticks
    await delay(IDLE_LOOK_MS)
  }
}

async function cpuTicks(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return Number(fields[11]) + Number(fields[12])
}

async function create({ server }: Pick<Bench, 'server'>, name: string, size: string): Promise<void> {
  await server.client.instances.create({ name, image: 'hypeman/base', size, vcpus: 1, overlay_size: OVERLAY })
  const { state } = await server.client.instances.wait(name, { state: 'Running', timeout: '2m' })
  if (state !== 'Running') throw new Error(`${name} is ${state}`)
}

async function readyMsOf(running: Promise<HandRun>): Promise<number> {
  await using run = await running
  return run.readyMs
}
