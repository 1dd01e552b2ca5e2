// What an instance can be given, and given later, seen in a real machine: its environment.

import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { APIError } from '@onkernel/hypeman'
import { runMachine, shell, untilRunning } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { countVm } from '../support/vm-count.ts'

const server = await startServer()
after(() => server[Symbol.asyncDispose]())

const { instances } = server.client

test('an environment that is changed while the program runs is its at the next start; what goes on from memory keeps the old one', async () => {
  const id = await runMachine(server, {
    name: 'changed',
    env: { COLOR: 'green', SIZE: 'small' },
    cmd: ['/bin/sh', '-c', 'echo "$COLOR $SIZE $SHAPE" >> /root/seen; exec sleep 100000'],
  })
  const changed = await instances.update(id, { env: { COLOR: 'red', SHAPE: 'round' } })
  assert.deepEqual([changed.state, changed.env], ['Running', { COLOR: 'red', SIZE: 'small', SHAPE: 'round' }])
  assert.equal(await shell(server, id, 'echo $COLOR'), 'green')
  const fork = await instances.fork(id, { name: 'changed-fork', from_running: true })
  countVm('fork')
  assert.deepEqual(fork.env, changed.env)
  assert.equal(await shell(server, fork.id, 'echo $COLOR'), 'green')
  await instances.delete(fork.id)

  await instances.stop(id)
  await server.crash()
  await server.restart()
  await instances.update(id, { env: { SIZE: '' } })
  await instances.start(id, {})
  await untilRunning(server, id)
  assert.equal(await shell(server, id, 'cat /root/seen; echo $COLOR'), 'green small \nred  round\nred')
  await assert.rejects(instances.update(id, { env: {} }), (error) => error instanceof APIError && error.status === 400)
  await assert.rejects(instances.update(id, { env: { 'A=B': '' } }), (error) => error instanceof APIError && error.status === 400)
  await instances.delete(id)
})
