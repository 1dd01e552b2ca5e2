// What lies in a snapshot's payload, on real QEMU, and what may become of it, of its source and of other snapshots while forks run from it.

import assert from 'node:assert/strict'
import { lstat, readdir, rm, truncate, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { dataLayout, snapshotFiles } from '../../src/files/layout.ts'
import { runMachine, shell } from '../support/machine.ts'
import { refusedWith } from '../support/refused.ts'
import { startServer } from '../support/server.ts'
import { countVm } from '../support/vm-count.ts'

const server = await startServer()
const { client } = server
after(() => server[Symbol.asyncDispose]())

let snapshotId = ''
before(async () => {
  const origin = await runMachine(server, { name: 'origin' })
  await shell(server, origin, 'echo before > /root/file')
  snapshotId = (await client.instances.snapshots.create(origin, { kind: 'Standby' })).id
})

/** A fork for one test, deleted with it. */
async function fork(
  name: string,
  options: Omit<Parameters<typeof client.snapshots.fork>[1], 'name'> = {},
): Promise<AsyncDisposable & { id: string }> {
  const made = await client.snapshots.fork(snapshotId, { name, ...options })
  if (made.state === 'Running') countVm('fork')
  return { id: made.id, [Symbol.asyncDispose]: () => client.instances.delete(made.id) }
}

test('a fork outlives its source and the snapshots of it; what is left forks, and goes back into nobody', async () => {
  const source = await client.snapshots.fork(snapshotId, { name: 'mother' })
  countVm('fork')
  const [gone, left] = [
    await client.instances.snapshots.create(source.id, { kind: 'Standby' }),
    await client.instances.snapshots.create(source.id, { kind: 'Standby' }),
  ]
  const early = await client.snapshots.fork(gone.id, { name: 'early' })
  countVm('fork')
  await client.snapshots.delete(gone.id)
  await assert.rejects(client.instances.snapshots.restore('nosuchsnapshot', { id: source.id }), refusedWith(404, /nosuchsnapshot/))
  await client.instances.delete(source.id)
  const late = await client.snapshots.fork(left.id, { name: 'late' })
  countVm('fork')
  for (const { id, name } of [early, late]) await shell(server, id, `echo ${name} > /run/memory`)
  for (const { id, name } of [early, late]) assert.equal(await shell(server, id, 'cat /run/memory /root/file'), `${name}\nbefore`)
  await assert.rejects(client.instances.snapshots.restore(left.id, { id: source.id }), refusedWith(404, new RegExp(source.id)))
  await client.snapshots.delete(left.id)
  for (const { id } of [early, late]) await client.instances.delete(id)
})

test('each later snapshot takes what was written since the one before, has the content of its instant, and loses nothing with the others', async () => {
  const source = await client.snapshots.fork(snapshotId, { name: 'generations' })
  countVm('fork')
  const payloadOf = (id: string): string => path.join(dataLayout(server.dataDirectory).snapshot(id), snapshotFiles.payload)
  const diffsOf = async (directory: string): Promise<string[]> =>
    (await readdir(directory)).filter((name) => name.endsWith('.diff')).toSorted()
  const snapshots: string[] = []
  for (const generation of ['first', 'second', 'third', 'fourth']) {
    await shell(
      server,
      source.id,
      `echo ${generation} | tee /root/file > /run/memory; dd if=/dev/urandom of=/run/${generation} bs=16k count=64`,
    )
    const { id } = await client.instances.snapshots.create(source.id, { kind: 'Standby' })
    snapshots.push(id)
    assert.equal((await diffsOf(payloadOf(id))).length, snapshots.length)
  }
  const sizes = await Promise.all(
    (await diffsOf(payloadOf(snapshots.at(-1) ?? ''))).map(
      async (name) => (await lstat(path.join(payloadOf(snapshots.at(-1) ?? ''), name))).size,
    ),
  )
  // What a guest that does next to nothing writes besides (dd, the shell, the agent) differs, but not by what it wrote before.
  for (const [index, size] of sizes.entries()) assert.ok(size >= 1024 ** 2 && size < 4 * 1024 ** 2, `number ${index + 1} has ${size} bytes`)

  const assertHolds = async (id: string, generation: string): Promise<void> => {
    const { id: child } = await client.snapshots.fork(id, { name: `of-${generation}` })
    countVm('fork')
    assert.equal(await shell(server, child, 'cat /run/memory /root/file'), `${generation}\n${generation}`)
    await client.instances.delete(child)
  }
  const [first = '', second = '', third = '', fourth = ''] = snapshots
  await client.snapshots.delete(second)
  await assertHolds(third, 'third')
  await client.snapshots.delete(fourth)
  await assertHolds(first, 'first')
  // In place, and from standby, it goes on from the diffs that it has.
  await client.instances.standby(source.id)
  await client.instances.snapshots.restore(first, { id: source.id, target_state: 'Running' })
  countVm('restore')
  assert.equal(await shell(server, source.id, 'cat /run/memory; echo fifth | tee /root/file > /run/memory'), 'first')
  await client.instances.standby(source.id)
  await client.instances.restore(source.id)
  countVm('restore')
  assert.equal(await shell(server, source.id, 'cat /run/memory /root/file'), 'fifth\nfifth')
  assert.equal((await diffsOf(dataLayout(server.dataDirectory).instance(source.id))).length, 2)
  await client.snapshots.delete(first)
  await client.instances.delete(source.id)
  await assertHolds(third, 'third')
  await client.snapshots.delete(third)
})

test('holes stay holes through snapshot, restore and fork, and a payload holds no logs, sockets, pids or locks', async () => {
  await using source = await fork('sparse')
  const own = await client.instances.snapshots.create(source.id, { kind: 'Standby' })
  const payload = path.join(dataLayout(server.dataDirectory).snapshot(own.id), snapshotFiles.payload)
  const files = await filesOf(payload)
  assert.ok(files.length > 0)
  for (const { name, regular } of files) assert.ok(regular && !/^logs|\.(?:log|pid|lock|sock|tmp)$/.test(name), name)
  await client.instances.standby(source.id)
  await client.instances.snapshots.restore(own.id, { id: source.id, target_state: 'Standby' })
  await using child = await fork('sparse-child', { target_state: 'Standby' })
  const instances = [source.id, child.id].map((id) => dataLayout(server.dataDirectory).instance(id))
  for (const directory of [payload, ...instances]) {
    const all = await filesOf(directory)
    const [apparent, allocated] = [sum(all.map(({ size }) => size)), sum(all.map(({ bytes }) => bytes))]
    assert.ok(allocated < apparent / 2, `${directory}: ${allocated} of ${apparent} bytes are allocated`)
  }
  await client.snapshots.delete(own.id)
})

async function filesOf(directory: string): Promise<{ name: string; regular: boolean; size: number; bytes: number }[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true })
  return Promise.all(
    entries
      .filter((entry) => !entry.isDirectory())
      .map(async (entry) => {
        const place = path.join(entry.parentPath, entry.name)
        const { size, blocks } = await lstat(place)
        return { name: path.relative(directory, place), regular: entry.isFile(), size, bytes: blocks * 512 }
      }),
  )
}

const sum = (values: readonly number[]): number => values.reduce((all, one) => all + one, 0)

test('a memory file that is removed or replaced while forks run from it does them no harm', async () => {
  await using source = await fork('harmless')
  const own = await client.instances.snapshots.create(source.id, { kind: 'Standby' })
  const layout = dataLayout(server.dataDirectory)
  const running = await client.snapshots.fork(own.id, { name: 'unharmed' })
  countVm('fork')
  await replaceBases(path.join(layout.snapshot(own.id), snapshotFiles.payload))
  assert.equal(
    await shell(server, running.id, 'cat /root/file; md5sum /bin/* /lib/* 2>/dev/null | wc -l; hostname').then((text) =>
      text.split('\n').at(-1),
    ),
    'unharmed',
  )
  await assert.rejects(client.snapshots.fork(own.id, { name: 'harmed' }), refusedWith(409, /damaged/))
  const next = await client.instances.snapshots.create(running.id, { kind: 'Standby' })
  const child = await client.snapshots.fork(next.id, { name: 'healthy' })
  countVm('fork')
  assert.equal(await shell(server, child.id, 'cat /root/file'), 'before')

  await replaceBases(layout.instance(running.id))
  await assert.rejects(
    client.instances.snapshots.create(running.id, { kind: 'Standby' }),
    refusedWith(409, /not the file that the VMM maps/),
  )
  assert.equal(await shell(server, running.id, 'cat /root/file'), 'before')
  for (const id of [running.id, child.id]) await client.instances.delete(id)
  for (const { id } of [own, next]) await client.snapshots.delete(id)
})

/** As somebody might who does not know what they are: the name leads to another file of the same size. */
async function replaceBases(directory: string): Promise<void> {
  const bases = (await readdir(directory)).filter((name) => name.endsWith('.base'))
  assert.ok(bases.length > 0)
  for (const name of bases) {
    const { size } = await lstat(path.join(directory, name))
    await rm(path.join(directory, name))
    await writeFile(path.join(directory, name), 'not what it was')
    await truncate(path.join(directory, name), size)
  }
}
