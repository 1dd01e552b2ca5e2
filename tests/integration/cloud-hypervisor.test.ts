// What is special to instances on Cloud Hypervisor, through the server, with real guests; what all hypervisors have to do is in hypervisors.test.ts.

import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { hypervisorsUnderTest, startHypervisor } from '../support/hypervisors.ts'
import { runMachine, shell } from '../support/machine.ts'
import { countVm } from '../support/vm-count.ts'

const [under] = hypervisorsUnderTest('cloud-hypervisor')
assert.ok(under)
const { server, body, ...started } = await startHypervisor(under)
after(() => started[Symbol.asyncDispose]())
const { client } = server
const machine = { ...body, hypervisor: 'cloud-hypervisor' } as const

async function logOf(id: string): Promise<string[]> {
  const lines = []
  for await (const line of await client.instances.logs(id, { tail: 20 })) lines.push(line)
  return lines
}

test('the log goes on over standby, restore and a new start, line by line as it was written', async () => {
  const cmd = [
    '/bin/sh',
    '-c',
    'trap "exit 0" TERM; echo up; while :; do [ -e /run/say ] && { cat /run/say; rm /run/say; }; sleep 0.1 & wait $!; done',
  ]
  const id = await runMachine(server, { ...machine, name: 'logged', cmd })
  await client.instances.standby(id)
  await client.instances.restore(id)
  countVm('restore')
  await shell(server, id, 'echo again > /run/words; mv /run/words /run/say; until [ ! -e /run/say ]; do sleep 0.1; done')
  await client.instances.stop(id)
  assert.deepEqual(await logOf(id), ['up', 'again'])
  await client.instances.start(id, {})
  assert.equal((await client.instances.wait(id, { state: 'Running', timeout: '2m' })).state, 'Running')
  countVm('boot')
  await client.instances.stop(id)
  assert.deepEqual(await logOf(id), ['up', 'again', 'up'])
  await client.instances.delete(id)
})

test('a snapshot of a fork has the memory that the fork never asked for', async () => {
  const id = await runMachine(server, { ...machine, name: 'source', cmd: ['/bin/sh', '-c', 'sleep 1000000'] })
  // On a file system in memory: nothing reads it again by itself.
  await shell(server, id, 'head -c 20000000 /dev/urandom > /run/large; md5sum < /run/large > /run/sum')
  const snapshot = await client.instances.snapshots.create(id, { kind: 'Standby' })
  const fork = await client.snapshots.fork(snapshot.id, { name: 'fork' })
  countVm('fork')
  await shell(server, fork.id, 'echo fork > /run/who')
  const again = await client.instances.snapshots.create(fork.id, { kind: 'Standby' })
  for (const gone of [id, fork.id]) await client.instances.delete(gone)
  await client.snapshots.delete(snapshot.id)
  const last = await client.snapshots.fork(again.id, { name: 'last' })
  countVm('fork')
  assert.equal(await shell(server, last.id, 'md5sum < /run/large | cmp - /run/sum && cat /run/who'), 'fork')
})
