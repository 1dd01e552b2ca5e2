// Flows as those see them who watch from outside.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openFlow, step, watchFlows, type FlowWatcher } from './flow.ts'

function notingWatcher(notes: string[]): FlowWatcher {
  return {
    begin(flow, about) {
      notes.push(`begin ${flow} ${JSON.stringify(about)}`)
      return {
        step: ({ step: name, error }) => notes.push(`${name} ${error ?? 'done'}`),
        end: () => notes.push(`end ${flow}`),
      }
    },
  }
}

const open = (told: string[]): ReturnType<typeof openFlow> =>
  openFlow(
    { flow: 'snapshot.create', signal: new AbortController().signal, onStep: (event) => told.push(event.step) },
    { instanceId: 'one' },
  )

test('a watcher is told of a flow, each of its steps and its end, also of a flow that fails; and whoever began it is told of the steps as well', async () => {
  const [notes, told]: [string[], string[]] = [[], []]
  using _watching = watchFlows(notingWatcher(notes))
  const run = async (): Promise<void> => {
    using flow = open(told)
    await step(flow, 'stage', () => undefined)
    await step(flow, 'commit', () => Promise.reject(new Error('no room')))
  }
  await assert.rejects(run(), /no room/)
  assert.deepEqual(notes, ['begin snapshot.create {"instanceId":"one"}', 'stage done', 'commit no room', 'end snapshot.create'])
  assert.deepEqual(told, ['stage', 'commit'])
})

test('who stops watching hears of no other flow, but of the rest of those that have begun', async () => {
  const notes: string[] = []
  const watching = watchFlows(notingWatcher(notes))
  {
    using flow = open([])
    watching[Symbol.dispose]()
    using _other = open([])
    await step(flow, 'stage', () => undefined)
  }
  assert.deepEqual(notes, ['begin snapshot.create {"instanceId":"one"}', 'stage done', 'end snapshot.create'])
})
