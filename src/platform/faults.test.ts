import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseFaults } from './faults.ts'
import { step, type StepEvent } from './flow.ts'

function flow(faults: string, events: StepEvent[] = []) {
  return {
    flow: 'some.flow',
    signal: new AbortController().signal,
    faults: parseFaults(faults),
    onStep: (event: StepEvent) => void events.push(event),
  }
}

test('a fault before a step keeps it from acting, one after it comes when it has acted', async () => {
  const acted: string[] = []
  await assert.rejects(
    step(flow('some.flow/one@before:throw'), 'one', () => acted.push('before')),
    /injected before some.flow\/one/,
  )
  await assert.rejects(
    step(flow('some.flow/one@after:throw'), 'one', () => acted.push('after')),
    /injected after some.flow\/one/,
  )
  assert.deepEqual(acted, ['after'])
})

test('other steps go on, and the failed one is reported with its error', async () => {
  const events: StepEvent[] = []
  const context = flow('some.flow/two@before:enospc', events)
  assert.equal(await step(context, 'one', () => 1), 1)
  await assert.rejects(
    step(context, 'two', () => 2),
    { code: 'storage_full' },
  )
  assert.deepEqual(
    events.map((event) => [event.step, event.error === undefined]),
    [
      ['one', true],
      ['two', false],
    ],
  )
})

test('what is no fault is refused, with the form to write', () => {
  for (const text of ['nonsense', 'a/b@never:throw', 'a/b@after:explode'])
    assert.throws(() => parseFaults(text), /write flow\/step@before:throw/)
})
