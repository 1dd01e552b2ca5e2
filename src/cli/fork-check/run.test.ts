// hypeman fork-check against a server that only claims to fork: what it asks, what it says, and that nothing is left of the forks.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { startFakeServer, type FakeServer } from '../../../tests/support/fake-server.ts'
import { hypeman, startHypeman } from '../../../tests/support/fake-terminal.ts'
import { until } from '../../../tests/support/until.ts'

interface Forks extends AsyncDisposable {
  readonly server: FakeServer
  readonly made: Set<string>
  readonly deleted: Set<string>
  /** The most forks that were there at the same time. */
  most(): number
}

/** What every fork has. */
const saidBy = (number: number): string =>
  [
    ...['urandom', 'random', 'uuid'].map((probe) => `${probe}\tbytes-${number}\n`),
    `identity\t{"generation":1,"instance_id":"id-${number}"}\n`,
  ].join('')

/** Forks are there until they are deleted; `say` gives the lines of each one's probes, undefined of one whose probes don't end. */
async function fakeForks(say: (number: number) => string | undefined): Promise<Forks> {
  const server = await startFakeServer()
  const [made, deleted] = [new Set<string>(), new Set<string>()]
  let most = 0
  server.on('GET /snapshots', () => ({ json: [] }))
  server.on('POST /snapshots/warm/fork', ({ body }) => {
    const { name, target_state: state } = body as { readonly name: string; readonly target_state: string }
    assert.equal(state, 'Running')
    made.add(name)
    most = Math.max(most, made.size - deleted.size)
    const number = made.size
    server.onSocket(`/instances/id-${number}/exec`, (socket) => {
      const output = say(number)
      if (output === undefined) return
      socket.send(Buffer.from(output))
      socket.send(JSON.stringify({ exitCode: 0 }))
      socket.close()
    })
    server.on(`DELETE /instances/${name}`, () => {
      deleted.add(name)
      return { status: 204 }
    })
    return { status: 201, json: { id: `id-${number}`, name, state } }
  })
  return { server, made, deleted, most: () => most, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() }
}

test('distinct forks: a table, the count at the end, exit code 0, and every fork is deleted again', async () => {
  await using forks = await fakeForks(saidBy)
  const { code, stdout, stderr } = await hypeman(forks.server.url, ['fork-check', 'warm', '--count', '7', '--parallel', '3'])
  assert.equal(code, 0, stderr)
  assert.match(stdout, /^urandom +kernel: \/dev\/urandom +7 +7 +distinct$/m)
  assert.match(stdout, /\n7 forks, 0 collisions\n$/)
  assert.equal(forks.made.size, 7)
  assert.deepEqual(forks.deleted, forks.made)
  assert.equal(forks.most() <= 3, true)
})

test('a collision ends with 1 and names the forks, unless it is not to count', async () => {
  await using forks = await fakeForks((number) => `${saidBy(number)}ssh-host-key\tthe same\n`)
  const found = await hypeman(forks.server.url, ['fork-check', 'warm', '--count', '2', '--json'])
  assert.equal(found.code, 1)
  const result = JSON.parse(found.stdout) as {
    readonly collisions: number
    readonly forks: number
    readonly probes: readonly { readonly probe: string; readonly shared?: unknown }[]
  }
  assert.deepEqual([result.forks, result.collisions], [2, 1])
  assert.deepEqual(result.probes.find(({ probe }) => probe === 'ssh-host-key')?.shared, [{ value: 'the same', forks: [...forks.made] }])
  const ignored = await hypeman(forks.server.url, ['fork-check', 'warm', '--count', '2', '--ignore', 'ssh-host-key'])
  assert.deepEqual([ignored.code, ignored.stdout.trimEnd().split('\n').at(-1)], [0, '2 forks, 0 collisions'])
})

test('a fork that fails ends with 1 and says why; the others are compared all the same', async () => {
  await using forks = await fakeForks(saidBy)
  let asked = 0
  const { server } = forks
  server.on('POST /snapshots/full/fork', () => {
    asked += 1
    return { status: 409, json: { code: 'insufficient_resources', message: 'no memory is left; stop an instance' } }
  })
  const { code, stdout, stderr } = await hypeman(server.url, ['fork-check', 'full', '--count', '2'])
  assert.deepEqual([code, asked], [1, 2])
  assert.match(stderr, /^fork-check-[0-9a-f]{8}-1: Error: no memory is left; stop an instance$/m)
  assert.match(stdout, /\n0 forks, 0 collisions\n$/)
})

test('an interrupt deletes the forks under way, makes no more, and ends as an interrupt', async () => {
  await using forks = await fakeForks(() => undefined)
  const running = startHypeman(forks.server.url, ['fork-check', 'warm', '--count', '9', '--parallel', '2'])
  await until('two forks are asked', () => forks.made.size === 2)
  running.interrupt()
  const { code, stdout, stderr } = await running.ended
  assert.deepEqual([code, stdout], [130, ''])
  assert.match(stderr, /Interrupted: the forks that were made are deleted first/)
  assert.equal(forks.made.size, 2)
  assert.deepEqual(forks.deleted, forks.made)
})

test('a fork that can not be deleted is named with what deletes it', async () => {
  await using forks = await fakeForks(saidBy)
  const { server } = forks
  server.on('POST /snapshots/stuck/fork', ({ body }) => {
    const { name } = body as { readonly name: string }
    server.on(`DELETE /instances/${name}`, () => ({ status: 409, json: { code: 'busy', message: 'busy; try again' } }))
    server.onSocket(`/instances/${name}/exec`, (socket) => {
      socket.send(JSON.stringify({ exitCode: 0 }))
      socket.close()
    })
    return { status: 201, json: { id: name, name, state: 'Running' } }
  })
  const { code, stderr } = await hypeman(server.url, ['fork-check', 'stuck', '--count', '2'])
  assert.equal(code, 1)
  assert.match(stderr, /it could not be deleted; hypeman rm --force fork-check-[0-9a-f]{8}-2 does it/)
})

test('one fork has nothing to be compared with', async () => {
  await using forks = await fakeForks(() => '')
  assert.equal((await hypeman(forks.server.url, ['fork-check', 'warm', '--count', '1'])).code, 2)
  assert.deepEqual(forks.server.requests, [])
})
