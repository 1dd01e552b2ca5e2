import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ProgressHub } from './progress.ts'
import type { ImageProgress, ImageStatus } from './types.ts'

const piece = (name: string, status: ImageStatus, doneBytes?: number): ImageProgress => ({ name, status, message: '', doneBytes })

test('a slow listener gets the newest piece of each image and every end', async () => {
  const hub = new ProgressHub()
  const listening = new AbortController()
  const pieces = hub.listen([piece('a', 'pending')], listening.signal)
  assert.equal((await pieces.next()).value?.status, 'pending')
  for (let bytes = 0; bytes < 1_000; bytes += 1) hub.publish(piece('a', 'pulling', bytes))
  hub.publish(piece('b', 'failed'))
  hub.publish(piece('a', 'ready'))
  hub.publish(piece('a', 'pulling', 1))
  hub.publish(piece('a', 'failed'))
  const seen: string[] = []
  for (let at = 0; at < 3; at += 1) {
    const { value } = await pieces.next()
    seen.push(`${value?.name} ${value?.status}`)
  }
  assert.deepEqual(seen, ['a ready', 'b failed', 'a failed'])
})

test('listening ends when the signal says so, whether pieces come or not', async () => {
  const hub = new ProgressHub()
  const listening = new AbortController()
  const next = hub.listen([], listening.signal).next()
  listening.abort()
  assert.equal((await next).done, true)
})
