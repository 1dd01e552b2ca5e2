import assert from 'node:assert/strict'
import { test } from 'node:test'
import { History } from './history.ts'
import { expectedAfter, lossesAtAnswers, lossesAtSyncs } from './losses.ts'
import type { Told } from './tell.ts'
import { change, differences } from './world.ts'

/** Two syncs, which end at 100 and at 200; what is done in between is written up to 150, or not at all. */
async function tell(deletionWrites: boolean): Promise<Told> {
  let length = 0
  const history = new History(() => length)
  await history.do('one is made', async (before) => {
    length = 100
    return change(before, 'images', 'one', 'content')
  })
  await history.do('one is deleted', async (before) => {
    if (deletionWrites) length = 150
    return change(before, 'images', 'one', undefined)
  })
  await history.do('two is made', async (before) => {
    length = 300
    return change(before, 'images', 'two', 'content')
  })
  const epochs = [84, 184, 300].map((written, index) => ({ writes: [], written, end: [100, 200, 300][index] ?? 0 }))
  return { recording: { filesystem: 'ext4', sizeBytes: 0, log: '', epochs }, history, async [Symbol.asyncDispose]() {} }
}

for (const deletionWrites of [true, false])
  test(`what was answered ${deletionWrites ? 'before the next sync' : 'without a write'} must be there after a loss of all that came since`, async () => {
    const told = await tell(deletionWrites)
    const [first] = lossesAtAnswers(told)
    assert.ok(first)
    const expected = expectedAfter(first, told)
    assert.deepEqual(
      expected.map(({ when }) => when),
      ['while one is made', 'after one is made', 'while one is deleted', 'after one is deleted', 'while two is made'],
    )
    const kept = { ...told.history.world, images: { one: 'content' } }
    assert.deepEqual(
      expected.filter(({ worlds }) => differences(kept, worlds) !== undefined).map(({ when }) => when),
      ['after one is deleted', 'while two is made'],
    )
  })

test('where chance lets writes survive, all of them have been made', async () => {
  const told = await tell(true)
  assert.deepEqual(
    expectedAfter({ epoch: 0, chance: 0.5, seed: 1 }, told).map(({ when }) => when),
    ['while two is made'],
  )
})

test('what no sync has ended is no loss that shows anything', async () => {
  assert.deepEqual(
    lossesAtSyncs(await tell(true)).map(({ epoch }) => epoch),
    [0, 1],
  )
})
