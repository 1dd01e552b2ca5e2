import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { isHypemanError } from '../api/errors.ts'
import { askUnix, firstAnswer, isListening } from './unix-http.ts'

const root = mkdtempSync(path.join(os.tmpdir(), 'unix-'))
after(() => rmSync(root, { recursive: true }))
const never = new AbortController().signal

/** Answers every request with its path. */
async function serve(socket: string): Promise<AsyncDisposable> {
  const server = createServer((request, response) => response.end(request.url))
  server.listen(socket)
  await once(server, 'listening')
  return { [Symbol.asyncDispose]: async () => void server.close() }
}

const asking =
  (socket: string) =>
  async (signal: AbortSignal, limitMs: number): Promise<string> =>
    (await askUnix({ socket, method: 'GET', path: '/here', limitMs, signal })).text

test('a socket that never appears is asked until the limit, and one that appears late is found', async () => {
  const missing = path.join(root, 'missing')
  const options = { name: 'the VMM', signal: never, limitMs: 60 }
  await assert.rejects(
    firstAnswer(asking(missing), options),
    (error) => isHypemanError(error, 'host_unavailable') && error.message === 'the VMM did not listen on its socket within 0.06 s',
  )
  await assert.rejects(firstAnswer(asking(missing), { ...options, signal: AbortSignal.abort(new Error('enough')) }), /enough/)
  await assert.rejects(firstAnswer(asking(missing), { ...options, signal: AbortSignal.timeout(20), limitMs: 60_000 }), {
    name: 'TimeoutError',
  })
  const late = path.join(root, 'late')
  const found = firstAnswer(asking(late), { ...options, limitMs: 60_000 })
  await using _server = await serve(late)
  assert.equal(await found, '/here')
})

test('an answer that is no good is the caller’s at once, and so is a socket’s error in words of the caller’s', async () => {
  const options = { name: 'the VMM', signal: never, limitMs: 60_000 }
  await assert.rejects(
    firstAnswer(() => Promise.reject(new Error('nonsense')), options),
    /nonsense/,
  )
  let times = 0
  const wrapped = async (): Promise<number> => {
    times += 1
    const refused = Object.assign(new Error('connect'), { code: 'ECONNREFUSED' })
    if (times < 3) throw new Error('it can not be asked', { cause: refused })
    return times
  }
  assert.equal(await firstAnswer(wrapped, options), 3)
})

test('a socket is listened to as long as its process listens', async () => {
  const socket = path.join(root, 'listening')
  assert.equal(await isListening(socket), false)
  {
    await using _server = await serve(socket)
    assert.equal(await isListening(socket), true)
  }
  assert.equal(await isListening(socket), false)
})
