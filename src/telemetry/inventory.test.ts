// Metrics of what there is, and that every metric on the dashboard is exported.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { hostOf } from '../../tests/support/capacity.ts'
import { aRecord, stateOnly, testContext } from '../../tests/support/instance-context.ts'
import { aSnapshot } from '../../tests/support/records.ts'
import { InstanceEntry } from '../instances/index.ts'
import { nothingHeld, type Capacity } from '../platform/capacity.ts'
import { SnapshotStore } from '../snapshots/index.ts'
import { describeInventory } from './inventory.ts'
import { createMetrics, type Metrics } from './metrics.ts'

interface World extends AsyncDisposable {
  readonly metrics: Metrics
  readonly snapshots: SnapshotStore
  readonly capacity: Capacity
  readonly failures: string[]
  add(entry: InstanceEntry): void
  samples(name: string): Promise<string[]>
}

async function openWorld(): Promise<World> {
  await using undo = new AsyncDisposableStack()
  const { context } = undo.use(await testContext())
  const metrics = undo.use(createMetrics('1.2.3'))
  const snapshots = new SnapshotStore(context.layout, context.log)
  const failures: string[] = []
  const failed = (what: string, error: unknown): void => void failures.push(`${what}: ${String(error)}`)
  const capacity = hostOf({ cpu: 8, memory: 2 ** 33, disk: 2 ** 40 })
  undo.use(
    describeInventory(metrics.registry, {
      layout: context.layout,
      instances: context.store,
      snapshots,
      capacity,
      spares: { ready: 3 },
      failed,
    }),
  )
  const kept = undo.move()
  return {
    ...{ metrics, snapshots, capacity, failures },
    add: (entry) => context.store.add(entry),
    async samples(name) {
      const { text } = await metrics.read()
      return text.split('\n').filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `))
    },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  }
}

test('what of the host may be promised, and what is, is told at each scrape', async () => {
  await using world = await openWorld()
  using _share = world.capacity.reserve({ ...nothingHeld, kind: 'instance', id: 'a', name: 'a', cpu: 2, memory: 2 ** 30 })
  assert.deepEqual(await world.samples('hypeman_resource_limit'), [
    'hypeman_resource_limit{resource="cpu"} 8',
    'hypeman_resource_limit{resource="memory"} 8589934592',
    'hypeman_resource_limit{resource="disk"} 1099511627776',
  ])
  assert.deepEqual(await world.samples('hypeman_resource_allocated'), [
    'hypeman_resource_allocated{resource="cpu"} 2',
    'hypeman_resource_allocated{resource="memory"} 1073741824',
    'hypeman_resource_allocated{resource="disk"} 0',
  ])
})

test('instances are counted by state and hypervisor, and forks by what they came from', async () => {
  await using world = await openWorld()
  world.add(new InstanceEntry({ ...aRecord(), name: 'a' }, false))
  world.add(new InstanceEntry({ ...aRecord(), name: 'b', forkedFrom: { snapshotId: 's', instanceId: 'i' } }, true))
  world.add(
    new InstanceEntry({ ...aRecord(), name: 'c', hypervisor: 'qemu-microvm', forkedFrom: { snapshotId: null, instanceId: 'i' } }, false),
  )
  assert.deepEqual(await world.samples('hypeman_instances'), [
    'hypeman_instances{state="Stopped",hypervisor="qemu"} 1',
    'hypeman_instances{state="Standby",hypervisor="qemu"} 1',
    'hypeman_instances{state="Stopped",hypervisor="qemu-microvm"} 1',
  ])
  assert.deepEqual(await world.samples('hypeman_forks_loaded_ahead'), ['hypeman_forks_loaded_ahead 3'])
  assert.deepEqual(await world.samples('hypeman_forks'), ['hypeman_forks{source="snapshot"} 1', 'hypeman_forks{source="instance"} 1'])
  assert.deepEqual(world.failures, [])
})

test('snapshots are counted by kind, with the sum of their sizes', async () => {
  await using world = await openWorld()
  for (const sizeBytes of [1_000, 2_000]) world.snapshots.add(aSnapshot({ kind: 'Standby', sizeBytes }))
  world.snapshots.add(aSnapshot({ kind: 'Stopped', sizeBytes: 5 }))
  assert.deepEqual(await world.samples('hypeman_snapshots'), ['hypeman_snapshots{kind="Standby"} 2', 'hypeman_snapshots{kind="Stopped"} 1'])
  assert.deepEqual(await world.samples('hypeman_snapshot_logical_bytes'), [
    'hypeman_snapshot_logical_bytes{kind="Standby"} 3000',
    'hypeman_snapshot_logical_bytes{kind="Stopped"} 5',
  ])
  assert.deepEqual(await world.samples('hypeman_snapshots_measured'), ['hypeman_snapshots_measured 3'])
})

test('a VMM that does not answer holds up no scrape: it is told of once its state is known', async () => {
  await using world = await openWorld()
  const entry = new InstanceEntry({ ...aRecord(), name: 'slow' }, false)
  const { promise: answer, resolve } = Promise.withResolvers<{ state: 'Running' }>()
  entry.observe = () => answer
  world.add(entry)
  assert.deepEqual(await world.samples('hypeman_instances'), [])
  assert.deepEqual(await world.samples('hypeman_snapshots'), ['hypeman_snapshots{kind="Standby"} 0', 'hypeman_snapshots{kind="Stopped"} 0'])
  resolve({ state: 'Running' })
  assert.deepEqual(await world.samples('hypeman_instances'), ['hypeman_instances{state="Running",hypervisor="qemu"} 1'])
})

test('traffic is told by hypervisor and kind, of what has been counted since the first scrape', async () => {
  await using world = await openWorld()
  const entry = new InstanceEntry({ ...aRecord(), hypervisor: 'cloud-hypervisor' }, false)
  // Of a process that is not there: nothing else of it can be looked at.
  const process = { pid: 2 ** 30, startTicks: '0', bootId: '' }
  entry.machine = { ...stateOnly('running'), process, traffic: async () => ({ disks: { readBytes: 7, writtenBytes: 5 } }) }
  world.add(entry)
  assert.deepEqual(await world.samples('hypeman_vmm_traffic_bytes_total'), [
    'hypeman_vmm_traffic_bytes_total{hypervisor="cloud-hypervisor",kind="disk_read"} 0',
    'hypeman_vmm_traffic_bytes_total{hypervisor="cloud-hypervisor",kind="disk_written"} 0',
  ])
  assert.deepEqual(world.failures, [])
})

test('flows and steps are told by how they ended', async () => {
  await using world = await openWorld()
  const done = world.metrics.flows.begin('instance.fork', {})
  done.step({ flow: 'instance.fork', step: 'stage', ms: 3 })
  done.end()
  const failed = world.metrics.flows.begin('instance.fork', {})
  failed.step({ flow: 'instance.fork', step: 'stage', ms: 3, error: 'no room' })
  failed.end()
  for (const outcome of ['done', 'failed']) {
    const { text } = await world.metrics.read()
    assert.ok(text.includes(`hypeman_flow_duration_seconds_count{flow="instance.fork",outcome="${outcome}"} 1\n`))
    assert.ok(text.includes(`hypeman_step_duration_seconds_sum{flow="instance.fork",step="stage",outcome="${outcome}"} 0.003\n`))
  }
})

const root = path.join(import.meta.dirname, '../..')

/** Names of metrics that a text speaks of, without what Prometheus adds to those of histograms. */
function namesIn(text: string): Set<string> {
  const found = text.matchAll(/\b(?:hypeman|nodejs|process)_[a-z0-9_]+/g)
  return new Set([...found].map(([name]) => name.replace(/_(?:bucket|sum|count)$/, '')))
}

test('every metric on the dashboard and in docs/operating.md is exported, and every metric of ours is on the dashboard and in the page', async () => {
  await using world = await openWorld()
  const { text } = await world.metrics.read()
  const exported = new Set([...text.matchAll(/^# TYPE (\S+)/gm)].map(([, name = '']) => name))
  const ours = [...exported].filter((name) => name.startsWith('hypeman_'))
  assert.ok(ours.length > 10)
  for (const file of ['docs/grafana/hypeman.json', 'docs/operating.md']) {
    const named = namesIn(await readFile(path.join(root, file), 'utf8'))
    assert.ok(named.size > 10, file)
    for (const name of named) assert.ok(exported.has(name), `${file} names ${name}, which is not exported`)
    for (const name of ours) assert.ok(named.has(name), `${file} does not name ${name}`)
  }
})

test('each panel of the dashboard has queries of the data source that the reader chooses, and a place of its own', async () => {
  const text = await readFile(path.join(root, 'docs/grafana/hypeman.json'), 'utf8')
  const dashboard = JSON.parse(text) as {
    readonly panels: readonly {
      readonly title: string
      readonly gridPos: Readonly<Record<'x' | 'y' | 'w' | 'h', number>>
      readonly datasource: { readonly uid: string }
      readonly targets: readonly { readonly expr: string }[]
    }[]
  }
  const taken = new Set<string>()
  for (const { title, gridPos, datasource, targets } of dashboard.panels) {
    assert.equal(datasource.uid, '${datasource}', title)
    assert.ok(targets.length > 0 && targets.every(({ expr }) => namesIn(expr).size > 0), title)
    assert.ok(gridPos.x + gridPos.w <= 24, title)
    for (let x = gridPos.x; x < gridPos.x + gridPos.w; x += 1)
      for (let y = gridPos.y; y < gridPos.y + gridPos.h; y += 1) {
        assert.ok(!taken.has(`${x} ${y}`), `${title} lies on another panel`)
        taken.add(`${x} ${y}`)
      }
  }
})
