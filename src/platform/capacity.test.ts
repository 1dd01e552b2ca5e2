// Who gets what the host has, when many ask at once, and what those are told who get nothing.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { isHypemanError } from '../api/errors.ts'
import { hostOf } from '../../tests/support/capacity.ts'
import { Capacity, limitOf, nothingHeld, resources, sumOf, type Amounts, type Holding } from './capacity.ts'

const GIB = 1024 ** 3

function instance(id: string, amounts: Partial<Amounts>): Holding {
  return { ...nothingHeld, kind: 'instance', id, name: `vm-${id}`, ...amounts }
}

/** Whether the host lets it have that. */
function fits(capacity: Capacity, wanted: Holding): boolean {
  try {
    capacity.reserve(wanted)[Symbol.dispose]()
    return true
  } catch (error) {
    if (isHypemanError(error, 'insufficient_resources')) return false
    throw error
  }
}

test('however those who ask are interleaved, never more is promised than there is, and nobody is refused for whom there is room', async () => {
  const amount = fc.nat({ max: 6 })
  const wish = fc.record({ amounts: fc.record({ cpu: amount, memory: amount, disk: amount }), succeeds: fc.boolean(), again: fc.boolean() })
  let refusals = 0
  await fc.assert(
    fc.asyncProperty(fc.array(wish, { minLength: 1, maxLength: 12 }), fc.scheduler(), async (wishes, scheduler) => {
      const limits = { cpu: 10, memory: 10, disk: 20 }
      const capacity = hostOf(limits)
      /** What is there, and what is on its way: kept apart from the code under test. */
      const [there, coming] = [new Map<string, Holding>(), new Map<string, Holding>()]
      capacity.count(() => there.values())
      const inUse = (resource: keyof Amounts): number => sumOf(new Map([...there, ...coming]).values(), resource)
      const life = async ({ amounts, succeeds, again }: (typeof wishes)[number], index: number): Promise<void> => {
        const wanted = instance(String(index), amounts)
        await scheduler.schedule(Promise.resolve())
        const hasRoom = resources.every((resource) => amounts[resource] === 0 || inUse(resource) + amounts[resource] <= limits[resource])
        let share: Disposable
        try {
          share = capacity.reserve(wanted)
        } catch (error) {
          assert.ok(isHypemanError(error, 'insufficient_resources'))
          assert.ok(!hasRoom, error.message)
          refusals += 1
          return
        }
        assert.ok(hasRoom)
        coming.set(wanted.id, wanted)
        // A flow within the flow asks for the same once more, which is no more than it has.
        if (again) capacity.reserve(wanted)[Symbol.dispose]()
        await scheduler.schedule(Promise.resolve())
        if (succeeds) there.set(wanted.id, wanted)
        share[Symbol.dispose]()
        coming.delete(wanted.id)
        for (const resource of resources) assert.ok(inUse(resource) <= limits[resource])
        await scheduler.schedule(Promise.resolve())
        there.delete(wanted.id)
      }
      await Promise.all([...wishes.map(life), scheduler.waitAll()])
      assert.deepEqual(capacity.holdings(), [])
      assert.ok(fits(capacity, instance('all', limits)))
    }),
  )
  assert.ok(refusals > 0, 'nobody was ever refused, so nothing was shown')
})

test('a thing that is there and reserved for counts once, with the larger of both in each resource', () => {
  const capacity = hostOf({ cpu: 4, memory: 4, disk: 4 })
  const there = [instance('a', { disk: 3 })]
  capacity.count(() => there)
  using _share = capacity.reserve(instance('a', { cpu: 2, memory: 2, disk: 3 }))
  assert.deepEqual(capacity.holdings(), [instance('a', { cpu: 2, memory: 2, disk: 3 })])
  assert.ok(fits(capacity, instance('b', { cpu: 2, memory: 2, disk: 1 })))
  assert.ok(!fits(capacity, instance('b', { cpu: 3 })))
})

test('things of two kinds may have one id', () => {
  const capacity = hostOf({ cpu: 0, memory: 0, disk: 4 })
  capacity.count(() => [instance('a', { disk: 2 }), { ...instance('a', { disk: 2 }), kind: 'volume' }])
  assert.ok(!fits(capacity, instance('b', { disk: 1 })))
})

test('where more is promised than there is by now, what needs no more is not refused, and what needs more is', () => {
  const capacity = hostOf({ cpu: 2, memory: 2, disk: 2 })
  capacity.count(() => [instance('a', { disk: 5 }), instance('b', { cpu: 4, disk: 1 })])
  assert.ok(fits(capacity, instance('a', { memory: 2, disk: 5 })))
  assert.ok(fits(capacity, instance('b', { cpu: 4, disk: 1 })))
  assert.ok(!fits(capacity, instance('a', { cpu: 1, disk: 5 })))
})

test('what is given back twice is given back once', () => {
  const capacity = hostOf({ cpu: 2, memory: 0, disk: 0 })
  const first = capacity.reserve(instance('a', { cpu: 1 }))
  using _second = capacity.reserve(instance('b', { cpu: 1 }))
  first[Symbol.dispose]()
  first[Symbol.dispose]()
  assert.ok(fits(capacity, instance('c', { cpu: 1 })))
  assert.ok(!fits(capacity, instance('c', { cpu: 2 })))
})

test('a refusal says what is asked, what is left of how much, and which settings decide', () => {
  const supply = { capacity: 4, ratio: 2, source: 'detected' } as const
  const capacity = new Capacity(() => ({ cpu: supply, memory: { ...supply, capacity: 16 * GIB, ratio: 0.5 }, disk: supply }))
  capacity.count(() => [instance('a', { cpu: 7, memory: 6 * GIB })])
  assert.throws(
    () => capacity.reserve(instance('b', { cpu: 4, memory: 1 * GIB })),
    (error) =>
      isHypemanError(error, 'insufficient_resources') &&
      error.message ===
        'the instance vm-b needs 4 more vCPUs (left: 1 of 8 = 2 × 4); stop or delete what is not needed, ask for less, or raise oversubscription.cpu',
  )
  assert.throws(
    () => capacity.reserve(instance('b', { cpu: 4, memory: 4 * GIB })),
    (error) =>
      isHypemanError(error, 'insufficient_resources') &&
      / and 4\.0 GB more memory \(left: 2\.0 GB of 8\.0 GB = 0\.5 × 16\.0 GB\); .* raise oversubscription\.cpu and oversubscription\.memory$/.test(
        error.message,
      ),
  )
})

test('a ratio that leaves a fraction leaves less, not more', () => {
  assert.equal(limitOf({ capacity: 3, ratio: 0.5 }), 1)
  assert.equal(limitOf({ capacity: 3, ratio: 1.5 }), 4)
})
