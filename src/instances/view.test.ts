// What the wire says of an instance, from its record and what is seen of it.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { aRecord, stateOnly } from '../../tests/support/instance-context.ts'
import { instance as instanceSchema, type InstanceView } from '../api/schemas/instance.ts'
import { InstanceEntry } from './entry.ts'
import type { InstanceRecord } from './record.ts'
import { viewOf } from './view.ts'

async function viewed(change: Partial<InstanceRecord>, see: (entry: InstanceEntry) => void = () => undefined): Promise<InstanceView> {
  const entry = new InstanceEntry({ ...aRecord(), ...change }, false)
  see(entry)
  const view = await viewOf(entry)
  instanceSchema.parse(view)
  return view
}

test('a plain instance is shown without what it does not have', async () => {
  const view = await viewed({ name: 'web' })
  assert.deepEqual(
    [view.name, view.state, view.size, view.hotplug_size, view.overlay_size],
    ['web', 'Stopped', '256.0 MB', '0 B', '1.0 GB'],
  )
  for (const absent of ['env', 'tags', 'volumes', 'forked_from', 'state_error', 'exit_code', 'exit_message'])
    assert.ok(!(absent in view), absent)
})

test('environment, tags, volumes and ports are shown as they were asked for', async () => {
  const port = { guestPort: 80, hostPort: 8080, protocol: 'tcp', hostAddress: '127.0.0.1', automatic: false } as const
  const view = await viewed({
    env: { A: '1' },
    tags: { team: 'a' },
    volumes: [{ volumeId: 'v', mountPath: '/data', readOnly: true, overlay: { offsetBytes: 2 ** 30, sizeBytes: 2 ** 26 } }],
    network: { kind: 'user', mac: '02:00:00:00:00:01', ports: [port] },
  })
  assert.deepEqual([view.env, view.tags], [{ A: '1' }, { team: 'a' }])
  assert.deepEqual(view.volumes, [{ volume_id: 'v', mount_path: '/data', readonly: true, overlay: true, overlay_size: '64.0 MB' }])
  const ports = [{ guest_port: 80, host_port: 8080, protocol: 'tcp', host_address: '127.0.0.1' }]
  assert.deepEqual(view.network, { enabled: true, name: 'default', ip: '10.0.2.15', mac: '02:00:00:00:00:01', ports })
})

test('an instance without a network has neither address nor MAC', async () => {
  assert.deepEqual((await viewed({ network: null })).network, { enabled: false, ip: null, mac: null })
})

test('how the program ended is shown, also when its code is not known', async () => {
  const ended = await viewed({ exit: { code: 3, message: 'exited with code 3' } })
  assert.deepEqual([ended.exit_code, ended.exit_message], [3, 'exited with code 3'])
  assert.equal((await viewed({ exit: { code: null, message: 'the VMM was killed' } })).exit_code, null)
})

test('a fork says what it was made of, with the snapshot only if there is one', async () => {
  const of = async (snapshotId: string | null): Promise<unknown> =>
    (await viewed({ forkedFrom: { instanceId: 'i', snapshotId } })).forked_from
  assert.deepEqual(await of('s'), { instance_id: 'i', snapshot_id: 's' })
  assert.deepEqual(await of(null), { instance_id: 'i' })
})

test('has_snapshot means that memory waits on disk: in Standby, not while it is being restored from there', async () => {
  assert.equal((await viewed({}, (entry) => (entry.holdsMemory = true))).has_snapshot, true)
  const restoring = await viewed({}, (entry) => {
    entry.holdsMemory = true
    entry.machine = stateOnly('paused')
  })
  assert.deepEqual([restoring.state, restoring.has_snapshot], ['Paused', false])
})

test('a VMM that does not answer makes the state Unknown, with the reason', async () => {
  const view = await viewed({}, (entry) => (entry.machine = stateOnly('failing')))
  assert.equal(view.state, 'Unknown')
  assert.match(view.state_error ?? '', /does not answer/)
})
