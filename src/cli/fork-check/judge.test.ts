// What fork-check takes for a fault: anything that two forks share and should not, and nothing else.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { clockOffsetMs, isFault, judge, type Verdict } from './judge.ts'
import type { Finding, Observation } from './probes.ts'

const plain = [
  'urandom',
  'random',
  'getrandom',
  'uuid',
  'python-random',
  'node-bytes',
  'openssl',
  'boot-id',
  'machine-id',
  'hostname',
  'mac',
  'ssh-host-key',
]

/** What each fork has, so that nothing is amiss but what a test gives it instead. */
const commonOf = (number: number): Finding[] => [
  ...['urandom', 'random', 'uuid'].map((probe) => ({ probe, value: `${probe} of ${number}` })),
  { probe: 'identity', value: `{"generation":1,"instance_id":"id-${number}"}` },
]

function observed(number: number, given: readonly Finding[] = [], change: Partial<Observation> = {}): Observation {
  const instance = { id: `id-${number}`, network: { enabled: true, ip: '10.0.2.15' } }
  const findings = [...given, ...commonOf(number).filter(({ probe }) => !given.some((one) => one.probe === probe))]
  return { name: `fork-${number}`, instance, findings, from: number, to: number + 1_000, asked: 1_000_000, told: 1_000_900, ...change }
}

function verdictOf(observations: readonly Observation[], probe: string): Verdict {
  const found = judge(observations).find((one) => one.probe === probe)
  assert.ok(found !== undefined, probe)
  return found
}

test('values of each fork alone are no fault; one that any two share is, and both are named', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...plain),
      fc.uniqueArray(
        fc.string({ minLength: 1 }).filter((text) => text.trim() === text),
        { minLength: 3, maxLength: 20 },
      ),
      fc.nat(),
      (probe, values, pick) => {
        const forks = values.map((value, index) => observed(index, [{ probe, value }]))
        const clean = verdictOf(forks, probe)
        assert.deepEqual([clean.verdict, clean.forks, clean.distinct], ['distinct', values.length, values.length])
        assert.equal(judge(forks).some(isFault), false)

        const copied = forks[pick % forks.length]
        assert.ok(copied !== undefined)
        const twin = observed(999, copied.findings)
        const found = verdictOf([...forks, twin], probe)
        assert.equal(found.verdict, 'collision')
        assert.deepEqual(found.shared, [{ value: copied.findings[0]?.value, forks: [copied.name, 'fork-999'] }])
      },
    ),
  )
})

test('one fork may say the same twice; what an image lacks is no fault', () => {
  const twice = [
    { probe: 'mac', value: '02:00' },
    { probe: 'mac', value: '02:00' },
  ]
  assert.equal(verdictOf([observed(1, twice)], 'mac').verdict, 'distinct')
  const { verdict, note } = verdictOf([observed(1), observed(2)], 'getrandom')
  assert.deepEqual([verdict, note], ['absent', 'the image has no python3 or perl'])
})

test('a fork that takes itself for another instance is wrong, also if no other fork does', () => {
  const identity = (id: string): Finding[] => [{ probe: 'identity', value: `{"generation":1,"instance_id":"${id}"}` }]
  assert.equal(verdictOf([observed(1, identity('id-1')), observed(2, identity('id-2'))], 'instance-id').verdict, 'distinct')
  assert.equal(verdictOf([observed(1, identity('id-1')), observed(2, identity('source'))], 'instance-id').verdict, 'wrong')
  assert.equal(verdictOf([observed(1, identity('id-1'))], 'generation').verdict, 'told')
})

test('addresses: the same behind networks of their own, distinct among those that live at the same time, and as the server gave them', () => {
  const at = (number: number, guest: string, given = guest, from = 0): Observation =>
    observed(number, [{ probe: 'ip', value: guest }], {
      instance: { id: `id-${number}`, network: { enabled: true, ip: given } },
      from,
      to: from + 10,
    })
  assert.equal(verdictOf([at(1, '10.0.2.15'), at(2, '10.0.2.15')], 'ip').verdict, 'same')
  assert.equal(verdictOf([at(1, '10.1.0.2'), at(2, '10.1.0.3')], 'ip').verdict, 'distinct')
  assert.equal(verdictOf([at(1, '10.1.0.2'), at(2, '10.1.0.3'), at(3, '10.1.0.2', '10.1.0.2', 100)], 'ip').verdict, 'distinct')
  assert.equal(verdictOf([at(1, '10.1.0.2'), at(2, '10.1.0.3'), at(3, '10.1.0.2', '10.1.0.2', 5)], 'ip').verdict, 'collision')
  assert.equal(verdictOf([at(1, '10.1.0.2', '10.1.0.9'), at(2, '10.1.0.3')], 'ip').verdict, 'wrong')
})

test('connections that two forks with addresses of their own hold are inherited; those within the guest, and those made anew, are not', () => {
  const [outside, inside] = ['0F02000A:9C40 0202000A:1F90', '0100007F:9C40 0100007F:1F90']
  const both = (one: string, other: string): Observation[] =>
    [one, other].map((value, index) =>
      observed(index, [{ probe: 'tcp', value }], {
        instance: { id: `id-${index}`, network: { enabled: true, ip: `10.1.0.${index + 2}` } },
      }),
    )
  assert.equal(verdictOf(both(outside, outside), 'tcp').verdict, 'collision')
  assert.equal(verdictOf(both(inside, inside), 'tcp').verdict, 'distinct')
  assert.equal(verdictOf(both(outside, '0F02000A:9C41 0202000A:1F90'), 'tcp').verdict, 'distinct')
})

test('where all forks have one address, a connection that two hold may have been made anew: it is told, and is no fault', () => {
  const forks = [1, 2].map((number) => observed(number, [{ probe: 'tcp', value: '0F02000A:9C40 0202000A:1F90' }]))
  const { verdict, note, shared } = verdictOf(forks, 'tcp')
  assert.equal(verdict, 'told')
  assert.match(note ?? '', /^2 forks have the same: inherited, or .* connected again/)
  assert.deepEqual(shared?.[0]?.forks, ['fork-1', 'fork-2'])
})

test('what every fork has to have is wrong where none has it, and what some have is wrong where others lack it', () => {
  const without = (number: number, ...absent: readonly string[]): Observation => {
    const whole = observed(number, [{ probe: 'ssh-host-key', value: `key ${number}` }])
    return { ...whole, findings: whole.findings.filter(({ probe }) => !absent.includes(probe)) }
  }
  for (const [finding, probes] of [
    ['urandom', ['urandom']],
    ['random', ['random']],
    ['uuid', ['uuid']],
    ['identity', ['instance-id', 'generation']],
  ] as const)
    for (const [other, words] of [
      [without(2, finding), 'no fork has any'],
      [observed(2), '1 forks have none'],
    ] as const) {
      const forks = [without(1, finding), other]
      assert.deepEqual(
        probes.map((probe) => [verdictOf(forks, probe).verdict, verdictOf(forks, probe).note]),
        probes.map(() => ['wrong', words]),
      )
    }
  assert.equal(verdictOf([without(1), without(2, 'ssh-host-key')], 'ssh-host-key').verdict, 'wrong')
  assert.equal(verdictOf([without(1, 'ssh-host-key'), without(2, 'ssh-host-key')], 'ssh-host-key').verdict, 'absent')
  assert.equal(judge([]).some(isFault), false, 'no fork was seen, which is said elsewhere')
})

test('a clock is wrong when it is more than a second off for certain', () => {
  const clock = (value: string): Pick<Observation, 'findings' | 'asked' | 'told'> => ({
    findings: [{ probe: 'clock', value }],
    asked: 100_000,
    told: 102_000,
  })
  assert.equal(clockOffsetMs(clock('101.5')), 0)
  assert.equal(clockOffsetMs(clock('103.5')), 1_500)
  assert.equal(clockOffsetMs(clock('98.0')), -2_000)
  assert.equal(clockOffsetMs(clock('98.%N')), -1_000, 'without fractions the whole second is in its favour')
  assert.equal(clockOffsetMs(clock('date: not found')), undefined)
  assert.equal(verdictOf([observed(1, [{ probe: 'clock', value: '1000' }])], 'clock').verdict, 'told')
  assert.equal(verdictOf([observed(1, [{ probe: 'clock', value: '1009.5' }])], 'clock').verdict, 'wrong')
})

test("an image's own probes count unless they are for information", () => {
  const hooks = [
    { probe: 'hook 10-pool', value: 'a' },
    { probe: 'hook info-shell', value: 'b' },
  ]
  const both = [observed(1, hooks), observed(2, hooks)]
  assert.equal(verdictOf(both, 'hook 10-pool').verdict, 'collision')
  const told = verdictOf(both, 'hook info-shell')
  assert.deepEqual([told.verdict, told.distinct], ['told', 1])
  assert.match(told.note ?? '', /left to programs/)
  assert.equal(verdictOf([observed(1, hooks), observed(2)], 'hook 10-pool').verdict, 'wrong')
  assert.equal(verdictOf([observed(1, hooks), observed(2)], 'hook info-shell').verdict, 'told')
})
