// What a guest is told after a restore or fork, and what is made of its answer.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { connectGuest, identity, timeIn } from '../../tests/support/told-guest.ts'
import { isHypemanError } from '../api/errors.ts'

const names = ['clock', 'machine-id', 'boot-id', 'hostname', 'ssh-keys', 'network', 'connections', 'generation'] as const
const others = names.map((name) => `step ${name} 0 ok\n`).join('')
const stepsDone = `step entropy 1500 ok\n${others}step hooks 20 failed 10-db: no room\n`
const allDone = `step entropy 1500 ok\n${others}step hooks 20 ok\n`

function atOnce(message: string): string {
  return `${stepsDone}time ${timeIn(message)}\n`
}

test('a guest is told who it is, one value a line, with fresh entropy and the time', async () => {
  await using guest = await connectGuest(atOnce)
  const steps = await guest.agent.identity('fork', identity, 3)
  assert.deepEqual(steps, [
    { name: 'entropy', ms: 1.5, ok: true },
    ...names.map((name) => ({ name, ms: 0, ok: true })),
    { name: 'hooks', ms: 0.02, ok: false, message: '10-db: no room' },
  ])
  await guest.agent.identity('restore', identity, 4)
  const [first, second] = guest.heard
  assert.deepEqual(first?.slice(0, 11), [
    'reason fork',
    'generation 3',
    'instance i1',
    'hostname web 1',
    `machine-id ${'0'.repeat(32)}`,
    'mac 02:00:00:00:00:01',
    'address 10.0.2.15/24',
    'gateway 10.0.2.2',
    'dns 10.0.2.3',
    'dns 10.0.2.4',
    'mtu 1500',
  ])
  const entropyOf = (lines: readonly string[] | undefined): string => lines?.find((line) => line.startsWith('entropy ')) ?? ''
  assert.equal(Buffer.from(entropyOf(first).slice(8), 'base64').length, 256)
  assert.notEqual(entropyOf(first), entropyOf(second))
  assert.ok(Math.abs(Number(timeIn(first?.join('\n') ?? '') / 1_000_000n) - Date.now()) < 1_000)
})

test('a fork is told variables only where it was given some, each kept on its line', async () => {
  await using guest = await connectGuest(atOnce)
  await guest.agent.identity('fork', { ...identity, env: { TENANT: '7', KEY: 'two\nlines' } }, 1)
  await guest.agent.identity('fork', identity, 1)
  const variablesIn = (lines: readonly string[] | undefined): string[] => lines?.filter((line) => line.startsWith('variable ')) ?? []
  assert.deepEqual(guest.heard.map(variablesIn), [['variable TENANT=7', String.raw`variable KEY=two\nlines`], []])
})

test('programs of a fork that was not given its variables do not go on', async () => {
  await using guest = await connectGuest((message) => `${allDone}programs frozen\ntime ${timeIn(message)}\n`)
  const steps = await guest.agent.identity('fork', { ...identity, env: { TENANT: '7' } }, 1)
  assert.deepEqual(steps.at(-1), { name: 'environment', ms: 0, ok: false, message: 'the guest agent did not do it' })
  assert.equal(guest.heard.length, 1)
})

test('a fork is told secret files where it was given some, each on its line, and does not go on without them', async () => {
  const secretFiles = { 'tls.key': 'one\ntwo\\=3\r', empty: '' }
  const answers = [allDone, `${allDone}step secrets 90 ok\n`]
  await using guest = await connectGuest((message, count) => `${answers[count - 1] ?? allDone}time ${timeIn(message)}\n`)
  const steps = await guest.agent.identity('fork', { ...identity, secretFiles }, 1)
  assert.deepEqual(steps.at(-1), { name: 'secrets', ms: 0, ok: false, message: 'the guest agent did not do it' })
  assert.ok((await guest.agent.identity('fork', { ...identity, secretFiles }, 1)).every(({ ok }) => ok))
  await guest.agent.identity('fork', { ...identity, secretFiles: {} }, 1)
  const secretsIn = (lines: readonly string[]): string[] => lines.filter((line) => line.startsWith('secret '))
  const told = ['secret tls.key=one\\ntwo\\\\=3\r', 'secret empty=']
  assert.deepEqual(guest.heard.map(secretsIn), [told, told, []])
})

test('a guest without a network is told of none', async () => {
  await using guest = await connectGuest(atOnce)
  await guest.agent.identity('fork', { ...identity, network: null }, 1)
  assert.ok(guest.heard[0]?.every((line) => !/^(mac|address|gateway|dns|mtu) /.test(line)))
})

test('a guest whose clock is right is told the time once', async () => {
  await using guest = await connectGuest((message) => `${allDone}time ${timeIn(message)}\n`)
  await guest.agent.identity('fork', identity, 1)
  assert.equal(guest.heard.length, 1)
})

test('a guest whose clock is behind is told the time until it is right', async () => {
  await using guest = await connectGuest((message, count) => `${allDone}time ${timeIn(message) - (count <= 2 ? 300_000_000n : 0n)}\n`)
  const steps = await guest.agent.identity('fork', identity, 1)
  assert.deepEqual(
    guest.heard.slice(1).map((lines) => lines[0]),
    ['reason clock', 'reason clock'],
  )
  assert.ok(steps.every(({ name, ok, warning }) => ok && (warning === undefined || name === 'programs-run')))
})

test('a guest that is too slow to be told the time exactly is left as near as it came, with a warning', async () => {
  await using guest = await connectGuest((message) => `${allDone}time ${timeIn(message) - 300_000_000n}\n`)
  const steps = await guest.agent.identity('fork', identity, 1)
  assert.equal(guest.heard.length, 6)
  assert.match(steps.find(({ name, ok }) => name === 'clock-check' && ok)?.warning ?? '', /may be \d+ ms off/)
})

test('a guest whose clock stays in 1970, whatever it says of its steps, has failed, and is not told without end', async () => {
  await using guest = await connectGuest(() => `${allDone}time 1000000000\n`)
  const steps = await guest.agent.identity('fork', identity, 1)
  assert.equal(guest.heard.length, 6)
  assert.match(steps.find(({ ok }) => !ok)?.message ?? '', /at least \d+ ms off and can't be set/)
})

test('programs that stand still go on when all steps went well, with the time as it is then', async () => {
  await using guest = await connectGuest((message, count) =>
    count === 1 ? `${allDone}programs frozen\ntime ${timeIn(message)}\n` : `step clock 1 ok\nstep thaw 2000 ok\ntime ${timeIn(message)}\n`,
  )
  const steps = await guest.agent.identity('fork', identity, 1)
  assert.deepEqual(guest.heard[1]?.[0], 'reason thaw')
  assert.ok(timeIn(guest.heard[1]?.join('\n') ?? '') > 0n)
  assert.deepEqual(steps.at(-1), { name: 'thaw', ms: 2, ok: true })
})

test('programs of a guest whose clock was never set stay where they are', async () => {
  await using guest = await connectGuest(() => `${allDone}programs frozen\ntime 1000000000\n`)
  const steps = await guest.agent.identity('fork', identity, 1)
  assert.equal(guest.heard.length, 1)
  const last = steps.at(-1)
  assert.deepEqual([last?.name, last?.ok], ['clock-check', false])
  assert.match(last?.message ?? '', /at least \d+ ms off and can't be set/)
})

test('a guest that could not have its programs go on has failed, with the reason, and its clock is of no interest', async () => {
  const answers = { clock: 'step clock 1 failed not permitted\n', thaw: 'step clock 1 ok\n' }
  for (const [name, answer] of Object.entries(answers)) {
    await using guest = await connectGuest(
      (message, count) => `${count === 1 ? `${allDone}programs frozen\n` : answer}time ${count === 1 ? timeIn(message) : 1_000_000_000n}\n`,
    )
    const failed = (await guest.agent.identity('restore', identity, 1)).filter(({ ok }) => !ok)
    assert.ok(
      failed.some((one) => one.name === name),
      JSON.stringify(failed),
    )
    assert.equal(guest.heard.length, 2)
  }
})

test('a fork whose agent has no programs stand still is told to have run', async () => {
  await using guest = await connectGuest((message) => `${allDone}time ${timeIn(message)}\n`)
  const warningsOf = async (reason: 'fork' | 'restore'): Promise<readonly unknown[]> =>
    (await guest.agent.identity(reason, identity, 1)).flatMap(({ name, ok, warning }) => (warning === undefined ? [] : [name, ok]))
  assert.deepEqual(await warningsOf('fork'), ['programs-run', true])
  assert.deepEqual(await warningsOf('restore'), [])
})

test('notes and warnings of steps are heard', async () => {
  await using guest = await connectGuest(
    (message) =>
      `${allDone}step hooks 5 ok 10-a: done\r\u2028; 20-b: said\nstep ssh-keys 1 warned no ssh-keygen\ntime ${timeIn(message)}\n`,
  )
  const steps = await guest.agent.identity('fork', identity, 1)
  assert.deepEqual(steps.slice(-3, -1), [
    { name: 'hooks', ms: 0.005, ok: true, note: '10-a: done\r\u2028; 20-b: said' },
    { name: 'ssh-keys', ms: 0.001, ok: true, warning: 'no ssh-keygen' },
  ])
})

test('programs go on only in a guest that says it did every step, and that none failed', async () => {
  const outcomes = fc.record(
    Object.fromEntries(
      ['entropy', ...names, 'hooks'].map((name) => [name, fc.constantFrom('ok', 'ok', 'ok', 'ok', 'failed x', 'warned x', undefined)]),
    ),
  )
  await fc.assert(
    fc.asyncProperty(outcomes, fc.constantFrom('fork', 'restore'), async (said, reason) => {
      const lines = Object.entries(said).map(([name, outcome]) => (outcome === undefined ? '' : `step ${name} 1 ${outcome}\n`))
      await using guest = await connectGuest(
        (message, count) => `${count === 1 ? `${lines.join('')}programs frozen\n` : 'step thaw 1 ok\n'}time ${timeIn(message)}\n`,
      )
      const steps = await guest.agent.identity(reason, identity, 1)
      const needed = reason === 'fork' ? ['entropy', ...names, 'hooks'] : ['entropy', 'clock', 'connections', 'generation', 'hooks']
      const isSafe = needed.every((name) => said[name] !== undefined) && Object.values(said).every((outcome) => outcome !== 'failed x')
      assert.equal(
        guest.heard.some(([first]) => first === 'reason thaw'),
        isSafe,
      )
      assert.equal(
        steps.every(({ ok }) => ok),
        isSafe,
      )
    }),
    { numRuns: 50 },
  )
})

test('programs stand still and go on as they are asked to; a guest that does not do it is an error', async () => {
  await using guest = await connectGuest((message) => `step ${/^reason (\w+)/.exec(message)?.[1] ?? ''} 1 ok\ntime 1000000\n`)
  assert.equal(await guest.agent.freeze(), true)
  await guest.agent.thaw()
  assert.deepEqual(guest.heard, [['reason freeze'], ['reason thaw']])
  for (const answer of ['step freeze 1 failed no control group\ntime 1000000\n', 'time 1000000\n']) {
    await using lame = await connectGuest(() => answer)
    await assert.rejects(lame.agent.freeze(), /could not freeze its programs: (?:no control group|it does not say why)/)
  }
})

test('an agent of a version that knows no standing still says so; any other refusal is an error', async () => {
  await using old = await connectGuest(() => 'refused the reason is boot, fork, restore or clock\n')
  assert.equal(await old.agent.freeze(), false)
  await old.agent.thaw()
  await using broken = await connectGuest(() => 'refused the agent failed; its console log has the details\n')
  await assert.rejects(broken.agent.freeze(), /the agent failed/)
})

test('a guest that refuses is an error in its own words', async () => {
  await using guest = await connectGuest(() => 'refused the instance is missing\n')
  await assert.rejects(guest.agent.identity('fork', identity, 1), /what it was told first: the instance is missing/)
})

const nonsense = [
  'hello\n',
  stepsDone,
  'step entropy -1 ok\ntime 1000000\n',
  `step ${'x'.repeat(41)} 1 ok\ntime 1000000\n`,
  'time 5\n',
  'workload asleep\ntime 1000000\n',
  '\n',
]
for (const text of nonsense)
  test(`an answer that is no answer, ${JSON.stringify(text.slice(0, 20))}, proves nothing`, async () => {
    await using guest = await connectGuest(() => text)
    await assert.rejects(guest.agent.identity('fork', identity, 1), (error) => isHypemanError(error, 'guest_unreachable'))
  })

test('a guest that does not answer is given up with the signal, and its session with it', async () => {
  await using guest = await connectGuest(() => undefined)
  const waiting = new AbortController()
  const asked = guest.agent.identity('fork', identity, 1, waiting.signal)
  waiting.abort(new Error('time is over'))
  await assert.rejects(asked, /time is over/)
  await guest.agent.closed
})

test('a session that ends takes the renewal with it', async () => {
  await using guest = await connectGuest(() => undefined)
  const asked = guest.agent.identity('fork', identity, 1)
  guest.agent.close()
  await assert.rejects(asked, (error) => isHypemanError(error, 'guest_unreachable'))
})
