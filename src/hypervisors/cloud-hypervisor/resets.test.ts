import assert from 'node:assert/strict'
import { appendFile, mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { watchResets } from './resets.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'resets-'))
after(() => rm(root, { recursive: true }))
const alive = setInterval(() => undefined, 60_000)
after(() => clearInterval(alive))

const event = (name: string): string =>
  `${JSON.stringify({ timestamp: { secs: 0, nanos: 1 }, source: 'vm', event: name, properties: null }, null, 2)}\n\n`

test('a reset is told once, when it happens, also where its name comes in pieces', async () => {
  const file = path.join(root, 'later')
  await writeFile(file, event('booting'))
  const told = Promise.withResolvers<void>()
  let times = 0
  using _watch = watchResets(file, () => {
    times += 1
    told.resolve()
  })
  await appendFile(file, event('booted'))
  const reset = event('rebooting')
  const middle = reset.indexOf('boot')
  await appendFile(file, reset.slice(0, middle))
  await appendFile(file, reset.slice(middle))
  await told.promise
  await appendFile(file, event('rebooting'))
  assert.equal(times, 1)
})

test('a reset that happened before anybody watched is told, and other events are none', async () => {
  const [before, never] = [path.join(root, 'before'), path.join(root, 'never')]
  await writeFile(before, event('booted').repeat(2_000) + event('rebooting') + event('rebooted'))
  await writeFile(never, event('booted') + event('paused'))
  let told = ''
  using _before = watchResets(before, () => (told += 'before '))
  using _never = watchResets(never, () => (told += 'never '))
  assert.equal(told, 'before ')
})

test('a file that was deleted tells nothing', () => {
  using _watch = watchResets(path.join(root, 'missing'), () => assert.fail('there was no reset'))
})
