// What a guest that waits is told, and what is made of its answer.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { connectGuest, identity, timeIn } from '../../tests/support/told-guest.ts'
import { isHypemanError } from '../api/errors.ts'

const volumes = [
  { disk: 'vol-0', mountPath: '/a\\b\nc', readOnly: true, layerPart: null },
  { disk: 'vol-1', mountPath: '/srv', readOnly: true, layerPart: 2 },
]
const workload = { argv: ['sh', '-c', 'one\ntwo'], env: { PATH: '/bin', ODD: 'a\\n=b' }, cwd: '/srv', user: '1:2', stopSignal: 'SIGINT' }

test('a guest that waits is told its volumes and its program, each value on a line of its own, and says how the program is', async () => {
  await using guest = await connectGuest((message) => `step entropy 1500 ok\nworkload running\ntime ${timeIn(message)}\n`)
  const { state, steps } = await guest.agent.boot(identity, volumes, workload)
  assert.equal(state, 'running')
  assert.deepEqual(
    steps.map(({ name }) => name),
    ['entropy'],
  )
  assert.deepEqual(guest.heard[0]?.slice(0, 12), [
    'reason boot',
    String.raw`volume vol-0 ro /a\\b\nc`,
    'volume vol-1 over:2 /srv',
    'argument sh',
    'argument -c',
    String.raw`argument one\ntwo`,
    'variable PATH=/bin',
    String.raw`variable ODD=a\\n=b`,
    'directory /srv',
    'user 1:2',
    'stop-signal SIGINT',
    'instance i1',
  ])
  assert.ok(guest.heard[0]?.some((line) => line.startsWith('entropy ')))
})

test('a guest that was told before has done nothing again', async () => {
  await using guest = await connectGuest((message) => `workload exited\ntime ${timeIn(message)}\n`)
  assert.deepEqual(await guest.agent.boot(identity, [], workload), { steps: [], state: 'exited' })
})

test('a guest that does not say how its program is has proven nothing', async () => {
  await using guest = await connectGuest((message) => `step entropy 1 ok\ntime ${timeIn(message)}\n`)
  await assert.rejects(guest.agent.boot(identity, [], workload), (error) => isHypemanError(error, 'guest_unreachable'))
})

test('an environment that no guest takes is refused before it is sent', async () => {
  await using guest = await connectGuest((message) => `step entropy 1 ok\ntime ${timeIn(message)}\n`)
  const tooLong = { ...workload, env: { LONG: 'x'.repeat(1024 ** 2) } }
  await assert.rejects(guest.agent.boot(identity, [], tooLong), (error) => isHypemanError(error, 'invalid_request'))
  assert.deepEqual(guest.heard, [])
})

test('a boot whose answer does not say that the secret files were written is of an agent that is too old for them', async () => {
  const told = { ...identity, secretFiles: { token: 'hush' } }
  const answers = ['step entropy 1 ok\nworkload running', 'step secrets 1 ok\nworkload running', 'workload running']
  await using guest = await connectGuest((message, count) => `${answers[count - 1]}\ntime ${timeIn(message)}\n`)
  await assert.rejects(guest.agent.boot(told, [], workload), (error) => isHypemanError(error, 'not_supported'))
  assert.equal((await guest.agent.boot(told, [], workload)).state, 'running')
  assert.equal((await guest.agent.boot(told, [], workload)).state, 'running', 'told again, it does nothing')
  assert.ok(guest.heard[0]?.includes('secret token=hush'))
})
