// Damaged snapshots of real machines: which damage verify finds (all of it), which a fork or restore refuses before a guest runs, and that nothing else is harmed.

import assert from 'node:assert/strict'
import { copyFile, mkdir, readdir, readFile, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { APIError } from '@onkernel/hypeman'
import { z } from 'zod'
import { snapshotVerification, verifyEvent, type SnapshotVerification } from '../../src/api/schemas/verification.ts'
import { eventsOf } from '../support/instance-events.ts'
import { replaceDamaged, rotBit, setAside } from '../support/damage.ts'
import { runMachine, shell, untilRunning } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { digestsOf, snapshotFile, snapshotFileNames, untilHashed } from '../support/snapshot-files.ts'
import { vmmsOf } from '../support/vmm.ts'
import { countVm } from '../support/vm-count.ts'

const server = await startServer()
after(() => server[Symbol.asyncDispose]())

/** `base` is of a cold-booted machine, `late` of a fork of it: it shares the memory and disks of `base` and has changes of its own, those of an earlier snapshot and its own. */
let origin = ''
let base = ''
let late = ''
before(async () => {
  origin = await runMachine(server, { name: 'origin' })
  await shell(server, origin, 'echo kept > /root/file; sync')
  base = (await server.client.instances.snapshots.create(origin, { kind: 'Standby', name: 'base' })).id
  const child = await server.client.snapshots.fork(base, { name: 'child' })
  countVm('fork')
  const earlier = await server.client.instances.snapshots.create(child.id, { kind: 'Standby', name: 'earlier' })
  await server.client.snapshots.delete(earlier.id)
  await shell(server, child.id, 'echo changed > /root/file; sync')
  late = (await server.client.instances.snapshots.create(child.id, { kind: 'Standby', name: 'late' })).id
  await server.client.instances.delete(child.id)
  for (const id of [base, late]) await untilHashed(server, id)
})

const fileOf = (id: string, name: string): string => snapshotFile(server, id, name)

function post(place: string, accept = 'application/json'): Promise<Response> {
  return fetch(`${server.url}${place}`, { method: 'POST', headers: { authorization: `Bearer ${server.token}`, accept } })
}

async function verify(id: string): Promise<SnapshotVerification> {
  const response = await post(`/snapshots/${id}/verify`)
  assert.equal(response.status, 200)
  return snapshotVerification.parse(await response.json())
}

const wrong = ({ files }: SnapshotVerification): string[] =>
  files.flatMap(({ name, status }) => (status === 'ok' ? [] : [`${name} ${status}`]))

async function assertIntact(...ids: string[]): Promise<void> {
  for (const id of ids) assert.deepEqual(wrong(await verify(id)), [], id)
}

/** The act is refused for a damaged file, no machine was started, and nothing is there that was not before. */
async function assertRefused(name: string, act: () => Promise<unknown>): Promise<string> {
  const seen = async (): Promise<unknown> => [
    (await server.client.instances.list()).map((one) => [one.id, one.state]),
    vmmsOf(server),
    await readdir(path.join(server.dataDirectory, 'staging')),
  ]
  const earlier = await seen()
  let message = ''
  await assert.rejects(act, (error) => {
    assert.ok(error instanceof APIError, String(error))
    assert.equal(error.status, 409)
    assert.equal((error.error as { readonly code?: string }).code, 'corrupt_snapshot', error.message)
    assert.ok(error.message.includes(name), `${name} in ${error.message}`)
    message = error.message
    return true
  })
  assert.deepEqual(await seen(), earlier)
  return message
}

const fork = (id: string, target: 'Running' | 'Standby' | 'Stopped' = 'Running'): Promise<unknown> =>
  server.client.snapshots.fork(id, { name: 'new', target_state: target })

async function assertForks(id: string, content: string): Promise<void> {
  const made = await server.client.snapshots.fork(id, { name: 'whole' })
  countVm('fork')
  assert.equal(await shell(server, made.id, 'cat /root/file'), content)
  await server.client.instances.delete(made.id)
}

test('each file of a snapshot has a digest, and what it shares with another was read once', async () => {
  const [ofBase, ofLate] = [await digestsOf(server, base), await digestsOf(server, late)]
  assert.deepEqual(new Set(['seals.json', ...ofLate.keys()]), new Set(await snapshotFileNames(server, late)))
  assert.ok(ofLate.has('guest/memory-1.diff') && ofLate.has('guest/memory-2.diff'))
  for (const shared of ['guest/memory-1.base', 'guest/disk-0.raw']) assert.equal(ofLate.get(shared), ofBase.get(shared))
  assert.deepEqual(wrong(await verify(late)), [])
  assert.ok((await eventsOf(server, origin)).some(({ flow, step }) => flow === 'snapshot.digest' && step === 'record'))
})

test('a flipped bit in any file, records too, is found by verify and refused by fork, which names it; the other snapshot is as it was', async () => {
  const names = await snapshotFileNames(server, late)
  assert.ok(names.length >= 8, names.join(' '))
  for (const name of names) {
    {
      await using _damage = await replaceDamaged(fileOf(late, name))
      const message = await assertRefused(name, () => fork(late))
      assert.match(message, name.startsWith('guest/memory') || name === 'guest/device.state' ? /target_state Stopped/ : /another snapshot/)
      const found = await verify(late)
      assert.equal(found.status, 'bad')
      // Without seals there is nothing to compare the others with.
      const others = name === 'seals.json' ? names.filter((other) => other !== name).map((other) => `${other} not_hashed`) : []
      assert.deepEqual(new Set(wrong(found)), new Set([`${name} bad`, ...others]))
    }
    await assertIntact(late)
  }
  await assertIntact(base)
  await assertForks(late, 'changed')
  await assertForks(base, 'kept')
})

test('a bit that rotted, so that no time tells, is found by verify in any file; small files are refused by forks anyway, large ones once it was found', async () => {
  const readByForks = ['seals.json', 'snapshot.json', 'guest/memory.json', 'guest/device.state']
  for (const name of await snapshotFileNames(server, late)) {
    {
      await using _damage = await rotBit(fileOf(late, name))
      if (readByForks.includes(name)) await assertRefused(name, () => fork(late))
      const found = await verify(late)
      assert.ok(wrong(found).includes(`${name} bad`), `${name}: ${wrong(found).join(', ')}`)
      await assertRefused(name, () => fork(late))
      // A file that both share is as bad in the other.
      if (name === 'guest/memory-1.base') await assertRefused(name, () => fork(base))
    }
    await assertIntact(late)
  }
  await assertIntact(base)
  await assertForks(late, 'changed')
})

for (const [what, name, damage] of [
  ['a file that is missing', 'guest/device.state', (file: string) => rm(file)],
  ['a file cut short', 'guest/memory-1.base', (file: string) => truncate(file, 4096)],
  [
    'a file replaced by a link to an equal one',
    'guest/memory-1.diff',
    async (file: string) => {
      const target = path.join(server.dataDirectory, 'equal')
      await copyFile(file, target)
      await rm(file)
      await symlink(target, file)
    },
  ],
  [
    'a file replaced by a directory',
    'guest/memory.json',
    async (file: string) => {
      await rm(file)
      await mkdir(file)
    },
  ],
] as const)
  test(`${what} is refused and found`, async () => {
    {
      await using kept = await setAside(fileOf(late, name))
      await copyFile(kept.path, fileOf(late, name))
      await damage(fileOf(late, name))
      await assertRefused(name, () => fork(late))
      assert.equal(wrong(await verify(late)).length, 1)
    }
    await rm(path.join(server.dataDirectory, 'equal'), { force: true })
    await assertIntact(late, base)
  })

test('a payload that vanished, and a file too many, are refused and found', async () => {
  {
    await using _kept = await setAside(fileOf(late, 'guest'))
    await assertRefused('guest is missing', () => fork(late))
    const { status, files } = await verify(late)
    assert.equal(status, 'bad')
    assert.ok(files.every((file) => file.status === (file.name.startsWith('guest/') ? 'missing' : 'ok')))
  }
  const stranger = fileOf(late, 'guest/disk-99.qcow2')
  await writeFile(stranger, 'x')
  await assertRefused('guest/disk-99.qcow2', () => fork(late, 'Stopped'))
  assert.deepEqual(wrong(await verify(late)), ['guest/disk-99.qcow2 bad'])
  await rm(stranger)
  await assertIntact(late)
})

test('damaged memory leaves the disks usable: a fork to Stopped boots from them', async () => {
  await using _damage = await replaceDamaged(fileOf(late, 'guest/memory.json'))
  await using _more = await replaceDamaged(fileOf(late, 'guest/device.state'))
  const made = await server.client.snapshots.fork(late, { name: 'cold', target_state: 'Stopped' })
  await server.client.instances.start(made.id, {})
  await untilRunning(server, made.id)
  assert.equal(await shell(server, made.id, 'cat /root/file'), 'changed')
  await server.client.instances.delete(made.id)
})

test('a file that was put back from a copy proves its contents once, and is as good as before', async () => {
  const file = fileOf(late, 'guest/memory-1.diff')
  const bytes = await readFile(file)
  await rm(file)
  await writeFile(file, bytes)
  await assertForks(late, 'changed')
  await assertIntact(late)
})

test('a restore in place of a damaged snapshot changes nothing: the instance is in standby as before, and goes on', async () => {
  await shell(server, origin, 'echo later > /root/file; sync')
  await server.client.instances.standby(origin)
  {
    await using _damage = await replaceDamaged(fileOf(base, 'guest/memory-1.base'))
    await assertRefused('guest/memory-1.base', () => server.client.instances.snapshots.restore(base, { id: origin }))
  }
  await server.client.instances.restore(origin)
  countVm('restore')
  assert.equal(await shell(server, origin, 'cat /root/file'), 'later')
})

test('an instance in standby whose saved memory was damaged is not started, nor snapshotted or forked; stopped, it boots from its disks', async () => {
  const made = await server.client.snapshots.fork(late, { name: 'asleep' })
  countVm('fork')
  await shell(server, made.id, 'echo asleep > /root/file; sync')
  await server.client.instances.standby(made.id)
  const directory = path.join(server.dataDirectory, 'instances', made.id)
  const names = (await readdir(directory)).filter((name) => /^(memory|device|disk)/.test(name))
  assert.ok(names.length >= 6, names.join(' '))
  for (const name of names) {
    await using _damage = await replaceDamaged(path.join(directory, name))
    await assertRefused(name, () => server.client.instances.restore(made.id))
  }
  await server.client.instances.restore(made.id)
  countVm('restore')
  await server.client.instances.standby(made.id)
  await rotBit(path.join(directory, 'device.state'))
  await assertRefused('device.state', () => server.client.instances.restore(made.id))
  await assertRefused('device.state', () => server.client.instances.snapshots.create(made.id, { kind: 'Standby' }))
  await assertRefused('device.state', () => server.client.instances.fork(made.id, { name: 'new' }))
  await server.client.instances.stop(made.id)
  await server.client.instances.start(made.id, {})
  await untilRunning(server, made.id)
  assert.equal(await shell(server, made.id, 'cat /root/file'), 'asleep')
  await server.client.instances.delete(made.id)
})

test('records that were damaged while the server was away are never taken for others: one of a snapshot is found by verify --all', async () => {
  const asleep = (await server.client.snapshots.fork(late, { name: 'asleep', target_state: 'Standby' })).id
  {
    await using _snapshot = await replaceDamaged(fileOf(late, 'snapshot.json'))
    await using _instance = await replaceDamaged(path.join(server.dataDirectory, 'instances', asleep, 'record.json'))
    await server.restart({})
    assert.deepEqual(
      (await server.client.instances.list()).map((one) => [one.id, one.state]),
      [
        [origin, 'Running'],
        [asleep, 'Unknown'],
      ],
    )
    assert.deepEqual(
      (await server.client.snapshots.list()).map((one) => one.id),
      [base],
    )
    assert.deepEqual(wrong(await verify(late)), ['snapshot.json bad'])
    const all = z.array(snapshotVerification).parse(await (await post('/snapshots/verify')).json())
    assert.deepEqual(
      all.map(({ snapshot_id: id, status }) => [id, status]),
      [
        [late, 'bad'],
        [base, 'ok'],
      ],
    )
    await server.stop()
  }
  await server.restart({})
  await server.client.instances.restore(asleep)
  countVm('restore')
  assert.equal(await shell(server, asleep, 'cat /root/file'), 'changed')
  await server.client.instances.delete(asleep)
  await assertIntact(late)
})

test('a snapshot whose server was killed before its digests were written gets them after a restart; what was damaged in between is not blessed', async () => {
  await server.restart({ HYPEMAN_FAULTS: 'snapshot.digest/record@before:kill' })
  const made = await server.client.instances.snapshots.create(origin, { kind: 'Standby' }).catch(() => undefined)
  await server.died()
  await server.restart({ HYPEMAN_FAULTS: 'snapshot.digest/read@before:throw' })
  const id = made?.id ?? (await server.client.snapshots.list()).find((one) => one.id !== base && one.id !== late)?.id ?? ''
  const unhashed = [...(await digestsOf(server, id))].flatMap(([name, digest]) => (digest === null ? [name] : []))
  assert.ok(unhashed.length > 0)
  {
    await using _damage = await replaceDamaged(fileOf(id, unhashed[0] ?? ''))
    await assertRefused(unhashed[0] ?? '', () => fork(id))
    assert.ok(wrong(await verify(id)).includes(`${unhashed[0]} bad`))
  }
  await server.restart({})
  await untilHashed(server, id)
  await assertIntact(id)
  await server.client.snapshots.delete(id)
})

test('the stream of a verification tells how far it is, then what it found; no snapshot of that name is 404', async () => {
  const response = await post(`/snapshots/${late.slice(0, 12)}/verify`, 'text/event-stream')
  assert.match(response.headers.get('content-type') ?? '', /^text\/event-stream/)
  const events = (await response.text())
    .split('\n')
    .flatMap((line) => (line.startsWith('data: ') ? verifyEvent.parse(JSON.parse(line.slice(6))) : []))
  const result = events.pop()
  assert.equal(result?.type === 'result' ? result.status : undefined, 'ok')
  const done = events.map((event) => (event.type === 'progress' ? event.done_bytes : -1))
  assert.ok(done.length >= 8)
  assert.deepEqual(
    done,
    done.toSorted((one, other) => one - other),
  )
  assert.equal((await post('/snapshots/nosuchsnapshot/verify')).status, 404)
})

test('a snapshot that is deleted while it is verified is gone at once, and the verification says so', async () => {
  const { id } = await server.client.instances.snapshots.create(origin, { kind: 'Standby' })
  const verifying = post(`/snapshots/${id}/verify`)
  await server.client.snapshots.delete(id)
  const response = await verifying
  assert.ok(response.status === 404 || response.status === 200, String(response.status))
  assert.ok(!(await readdir(path.join(server.dataDirectory, 'snapshots'))).includes(id))
  assert.deepEqual(await readdir(path.join(server.dataDirectory, 'trash')), [])
})
