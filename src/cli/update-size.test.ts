// hypeman update size: what is asked of the server, and what is said of the answer.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fakeInstance, startFakeServer } from '../../tests/support/fake-server.ts'
import { hypeman } from '../../tests/support/fake-terminal.ts'

test('a size is sent as it was typed, and what the instance has then is said', async () => {
  await using server = await startFakeServer()
  const sizes = { size: '2.0 GB', vcpus: 4, overlay_size: '20.0 GB' }
  server.on('PATCH /instances/web', { json: { ...fakeInstance('web'), ...sizes, state: 'Stopped' } })
  const { code, stdout, stderr } = await hypeman(server.url, [
    'update',
    'size',
    'web',
    '--memory',
    '2GB',
    '--cpus',
    '4',
    '--overlay-size',
    '20GB',
  ])
  assert.equal(code, 0, stderr)
  assert.deepEqual(server.requests.at(-1)?.body, { size: '2GB', vcpus: 4, overlay_size: '20GB' })
  assert.equal(stdout, 'web has 4 processors, 2.0 GB of memory and a disk of 20.0 GB from its next start on\n')

  server.on('PATCH /instances/web', { json: { ...fakeInstance('web'), ...sizes, state: 'Running' } })
  const running = await hypeman(server.url, ['update', 'size', 'web', '--overlay-size', '20GB'])
  assert.deepEqual(server.requests.at(-1)?.body, { overlay_size: '20GB' })
  assert.equal(running.stdout, 'web has 4 processors, 2.0 GB of memory and a disk of 20.0 GB\n')
})

test('without a size, or with one that is none, nothing is asked', async () => {
  await using server = await startFakeServer()
  assert.equal((await hypeman(server.url, ['update', 'size', 'web'])).code, 2)
  assert.equal((await hypeman(server.url, ['update', 'size', 'web', '--cpus', 'many'])).code, 2)
  assert.deepEqual(server.requests, [])
})
