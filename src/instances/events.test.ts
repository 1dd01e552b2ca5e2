// The event log of an instance: one line an event, in order; subscribers hear of it at once; an instance without a directory costs nothing.

import assert from 'node:assert/strict'
import { mkdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { Writable } from 'node:stream'
import { pino } from 'pino'
import { testContext, type TestContext } from '../../tests/support/instance-context.ts'
import { instanceEvent, type InstanceEvent } from '../api/events.ts'
import { EventLog } from './events.ts'

async function withLog(world: TestContext): Promise<{ id: string; read: () => Promise<InstanceEvent[]> }> {
  const { id } = await world.add()
  const directory = world.context.layout.instance(id)
  await mkdir(path.join(directory, 'logs'))
  return {
    id,
    async read() {
      await world.context.events.written(id)
      const text = await readFile(path.join(directory, 'logs/events.jsonl'), 'utf8')
      return text
        .trimEnd()
        .split('\n')
        .map((line) => instanceEvent.parse(JSON.parse(line)))
    },
  }
}

test('events of an instance are written in the order in which they happened', async () => {
  await using world = await testContext()
  const { id, read } = await withLog(world)
  for (let step = 0; step < 200; step += 1) world.context.events.step(id, { flow: 'test', step: `s${step}`, ms: 1.23456 })
  world.context.events.state(id, 'Running', 'ready')
  const events = await read()
  assert.deepEqual(
    events.map((event) => (event.type === 'step' ? event.step : event.type === 'state' ? event.state : event.type)),
    [...Array.from({ length: 200 }, (_, step) => `s${step}`), 'Running'],
  )
  assert.deepEqual(events[0], { time: events[0]?.time, type: 'step', flow: 'test', step: 's0', ms: 1.23 })
})

test('what failed is told with its reason, in flows and in the guest', async () => {
  await using world = await testContext()
  const { id, read } = await withLog(world)
  world.context.events.step(id, { flow: 'instance.create', step: 'boot', ms: 5, error: 'no memory' })
  world.context.events.identity(id, 'fork', [
    { name: 'entropy', ok: true, ms: 1 },
    { name: 'clock', ok: false, ms: 2, message: 'not permitted' },
    { name: 'hooks', ok: false, ms: 3 },
  ])
  assert.deepEqual(
    (await read()).map((event) => (event.type === 'step' ? [event.flow, event.step, event.error] : [])),
    [
      ['instance.create', 'boot', 'no memory'],
      ['guest.fork', 'entropy', undefined],
      ['guest.fork', 'clock', 'not permitted'],
      ['guest.fork', 'hooks', 'failed'],
    ],
  )
})

test('a subscriber hears of every instance until it leaves', async () => {
  await using world = await testContext()
  const { events } = world.context
  const heard: string[] = []
  const subscription = events.subscribe((id, event) =>
    heard.push(`${id} ${event.type === 'step' ? event.step : event.type === 'state' ? event.state : event.type}`),
  )
  events.state('one', 'Running', '')
  events.step('other', { flow: 'f', step: 's', ms: 0 })
  subscription[Symbol.dispose]()
  events.state('one', 'Stopped', '')
  assert.deepEqual(heard, ['one Running', 'other s'])
  for (const id of ['one', 'other']) await events.written(id)
})

test('an event of an instance that has no directory yet, or no more, is told to subscribers and not logged as a fault', async () => {
  await using world = await testContext()
  const logged: string[] = []
  const sink = new Writable({
    write(chunk: Buffer, _encoding, done) {
      logged.push(chunk.toString())
      done()
    },
  })
  const events = new EventLog(world.context.layout, pino(sink))
  let heard = 0
  using _subscription = events.subscribe(() => (heard += 1))
  events.state('nobody', 'Running', '')
  await events.written('nobody')
  assert.deepEqual([heard, logged], [1, []])
  // Where the log can't be a file, the flow goes on and the server's log says so.
  const { id } = await world.add()
  await mkdir(path.join(world.context.layout.instance(id), 'logs/events.jsonl'), { recursive: true })
  events.state(id, 'Running', '')
  await events.written(id)
  assert.match(logged.join(''), /an event could not be written/)
})
