// A guest that breaks every rule: what it sends ends its own connection, and never makes the host's memory or time grow.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { duplexPair, Readable, type Duplex } from 'node:stream'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { isHypemanError } from '../api/errors.ts'
import { guestMagic, hostMagic } from './channel.ts'
import { connectAgent } from './client.ts'
import type { AgentClient } from './contract.ts'
import { frameFlags, frameTypes, headerOf, safeLength, WINDOW_BYTES } from './yamux-frames.ts'
import { YamuxSession } from './yamux.ts'

interface Hostile extends AsyncDisposable {
  readonly agent: AgentClient
  /** The guest's end of the channel. */
  readonly guest: Duplex
  /** Everything that the host sent. */
  received(): Buffer
}

/** A connection whose guest answers the preamble, and then does what the test says. */
async function connectHostile(): Promise<Hostile> {
  const [host, guest] = duplexPair()
  const chunks: Buffer[] = []
  guest.on('data', (chunk: Buffer) => void chunks.push(chunk)).on('error', () => undefined)
  const connecting = connectAgent(host, AbortSignal.timeout(5_000))
  await until(() => Buffer.concat(chunks).length >= 32)
  guest.write(Buffer.concat([randomBytes(1000), guestMagic.subarray(0, 9), guestMagic, Buffer.concat(chunks).subarray(16, 32)]))
  const agent = await connecting
  return {
    agent,
    guest,
    received: () => Buffer.concat(chunks),
    async [Symbol.asyncDispose]() {
      agent.close()
      await agent.closed
      guest.destroy()
    },
  }
}

async function until(met: () => boolean): Promise<void> {
  for (const deadline = performance.now() + 5_000; !met();) {
    assert.ok(performance.now() < deadline, 'timed out')
    await delay(1)
  }
}

function isUnreachable(error: unknown): boolean {
  assert.ok(isHypemanError(error, 'guest_unreachable'), String(error))
  return true
}

function data(stream: number, body: Buffer | string, flags = 0): Buffer {
  const bytes = Buffer.from(body)
  return Buffer.concat([headerOf(frameTypes.data, flags, stream, bytes.length), bytes])
}

const header = (...bytes: number[]): Buffer => Buffer.from(bytes)

const breaks: Readonly<Record<string, () => Buffer>> = {
  'another version': () => header(1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0),
  'an unknown type': () => header(0, 7, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0),
  'a stream of its own': () => header(0, 1, 0, frameFlags.syn, 0, 0, 0, 2, 0, 0, 0, 0),
  'going away': () => header(0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1),
  'a frame of 4 GiB': () => header(0, 0, 0, 0, 0, 0, 0, 1, 255, 255, 255, 255),
  'more than the window at once': () => headerOf(frameTypes.data, 0, 1, WINDOW_BYTES + 1),
  'an answer to no renewal': () => Buffer.concat([headerOf(frameTypes.renewal, 0, 0, 2), Buffer.from('x\n')]),
  'more window than there can be': () => headerOf(frameTypes.windowUpdate, 0, 1, 0xffff_ffff),
  noise: () => randomBytes(5_000),
}

for (const [what, bytes] of Object.entries(breaks))
  test(`${what} ends the session`, async () => {
    await using hostile = await connectHostile()
    const asked = hostile.agent.health()
    hostile.guest.write(bytes())
    await assert.rejects(asked, isUnreachable)
    await hostile.agent.closed
    await assert.rejects(hostile.agent.health(), isUnreachable)
  })

test('a long answer to a renewal ends the session', async () => {
  for (const length of [0, 65_537, 0xffff_ffff]) {
    await using hostile = await connectHostile()
    const asked = hostile.agent.identity('restore', { instanceId: 'i', hostname: 'h', machineId: '0'.repeat(32), network: null }, 1)
    hostile.guest.write(headerOf(frameTypes.renewal, 0, 0, length))
    await assert.rejects(asked, isUnreachable)
    await hostile.agent.closed
  }
})

test('more than the window in many frames ends the session', async () => {
  await using hostile = await connectHostile()
  const archive = hostile.agent.readArchive('/x', false)
  hostile.guest.write(data(1, 'HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n'))
  const answer = await archive
  const ended = new Promise<unknown>((resolve) => answer.once('error', resolve))
  for (let sent = 0; sent < 2 * WINDOW_BYTES; sent += 30_000) hostile.guest.write(data(1, Buffer.alloc(30_000)))
  await hostile.agent.closed
  await ended
})

test('pings are answered, but not without end to a guest that does not read', async () => {
  await using hostile = await connectHostile()
  hostile.guest.write(headerOf(frameTypes.ping, frameFlags.syn, 0, 77))
  await until(() => hostile.received().includes(headerOf(frameTypes.ping, frameFlags.ack, 0, 77)))
  hostile.guest.pause()
  const flood = Buffer.concat(Array.from({ length: 10_000 }, () => headerOf(frameTypes.ping, frameFlags.syn, 0, 1)))
  for (let i = 0; i < 100; i++) hostile.guest.write(flood)
  await hostile.agent.closed
})

test('data and windows for streams that are not there are dropped', async () => {
  await using hostile = await connectHostile()
  for (const id of [0, 2, 99, 0xffff_ffff])
    hostile.guest.write(Buffer.concat([data(id, Buffer.alloc(200_000)), headerOf(frameTypes.windowUpdate, frameFlags.rst, id, 5)]))
  const asked = hostile.agent.sync()
  hostile.guest.write(data(1, 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}'))
  await asked
})

test('a window of single bytes that nobody reads takes little memory and time', async () => {
  const [host, guest] = duplexPair()
  const session = new YamuxSession(host, hostMagic)
  const stream = session.open()
  const before = process.memoryUsage()
  const began = performance.now()
  const one = data(1, 'x')
  for (let sent = 0; sent < WINDOW_BYTES; sent += 4_096) session.receive(Buffer.concat(Array.from({ length: 4_096 }, () => one)))
  const took = performance.now() - began
  const after = process.memoryUsage()
  assert.ok(after.arrayBuffers - before.arrayBuffers < 32 * 1024 ** 2, `${after.arrayBuffers - before.arrayBuffers} bytes are held`)
  assert.ok(took < 5_000, `it took ${took} ms`)
  let read = 0
  stream.on('data', (chunk: Buffer) => (read += chunk.length))
  await until(() => read === WINDOW_BYTES)
  session.end(new Error('done'))
  guest.destroy()
})

test('single bytes in large chunks do not keep the chunks', async () => {
  const [host, guest] = duplexPair()
  const session = new YamuxSession(host, hostMagic)
  session.open()
  const before = process.memoryUsage().arrayBuffers
  for (let sent = 0; sent < 20_000; sent += 1) {
    // A byte for a stream that nobody reads, and 60 kB for one that is not there.
    const chunk = Buffer.alloc(12 + 1 + 12 + 60_000)
    data(1, 'x').copy(chunk)
    headerOf(frameTypes.data, 0, 9, 60_000).copy(chunk, 13)
    session.receive(chunk)
    if (sent % 1_000 === 0) await delay(0)
  }
  globalThis.gc?.()
  await until(() => process.memoryUsage().arrayBuffers - before < 300 * 1024 ** 2)
  session.end(new Error('done'))
  guest.destroy()
})

test('a reset fails its request alone; after the end of the answer it does not even that', async () => {
  await using hostile = await connectHostile()
  const first = hostile.agent.health()
  hostile.guest.write(headerOf(frameTypes.windowUpdate, frameFlags.rst, 1, 0))
  await assert.rejects(first, isUnreachable)
  const archive = hostile.agent.readArchive('/x', false)
  const body = Buffer.alloc(100_000, 7)
  hostile.guest.write(
    Buffer.concat([
      data(3, `HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n`),
      data(3, body),
      headerOf(frameTypes.windowUpdate, frameFlags.fin, 3, 0),
      headerOf(frameTypes.windowUpdate, frameFlags.rst, 3, 0),
    ]),
  )
  const answer = await archive
  await delay(20) // the reader comes late
  assert.equal(Buffer.concat(await Array.fromAsync(answer as AsyncIterable<Buffer>)).length, body.length)
})

const answers: Readonly<Record<string, string | (() => Buffer)>> = {
  'no HTTP': 'SSH-2.0-OpenSSH\r\n\r\n',
  'headers without end': () => Buffer.concat([Buffer.from('HTTP/1.1 200 OK\r\n'), Buffer.from(`x: ${'y'.repeat(100)}\r\n`.repeat(2_000))]),
  'no JSON': 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello',
  'other JSON': 'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"version":"no"}',
  'a protocol that is not this': 'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"protocol":2}',
  'JSON without end': () => Buffer.concat([Buffer.from('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')]),
  'a refusal that is none': 'HTTP/1.1 500 X\r\nContent-Length: 2\r\n\r\n[]',
  'an upgrade that nobody asked for': 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n',
  'a body that breaks off': 'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{',
}

for (const [what, answer] of Object.entries(answers))
  test(`an answer of ${what} is an unreachable guest`, async () => {
    await using hostile = await connectHostile()
    const asked = hostile.agent.health()
    const failed = assert.rejects(asked, isUnreachable)
    const bytes = typeof answer === 'string' ? Buffer.from(answer) : answer()
    for (let at = 0; at < bytes.length; at += 30_000) hostile.guest.write(data(1, bytes.subarray(at, at + 30_000)))
    if (what === 'JSON without end') {
      const piece = data(1, `1000\r\n${' '.repeat(4096)}\r\n`)
      for (let i = 0; i < 60; i++) hostile.guest.write(piece)
      const pump = setInterval(() => {
        for (let i = 0; i < 30; i++) hostile.guest.write(piece)
      }, 1)
      await failed.finally(() => clearInterval(pump))
    } else hostile.guest.write(headerOf(frameTypes.windowUpdate, frameFlags.fin, 1, 0))
    await failed
  })

const upgraded = 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: hypeman-exec/1\r\n\r\n'
const execFrames: Readonly<Record<string, Buffer>> = {
  'a frame of 4 GiB': header(5, 255, 255, 255, 255),
  'a frame of an unknown type': header(99, 0, 0, 0, 0),
  'a frame of the host': header(1, 0, 0, 0, 0),
  'an exit that is no JSON': Buffer.concat([header(7, 0, 0, 0, 3), Buffer.from('bye')]),
  'an empty exit': header(7, 0, 0, 0, 0),
  'an exit without a code': Buffer.concat([header(7, 0, 0, 0, 2), Buffer.from('{}')]),
  'an end in the middle of a frame': header(5, 0, 0, 0, 9, 1),
}

for (const [what, frame] of Object.entries(execFrames))
  test(`${what} breaks a program off`, async () => {
    await using hostile = await connectHostile()
    const starting = hostile.agent.exec({ argv: [], tty: false, env: {}, cwd: '', user: '', timeoutMs: 0, rows: 0, cols: 0 })
    hostile.guest.write(data(1, upgraded))
    const session = await starting
    hostile.guest.write(data(1, frame, frameFlags.fin))
    await assert.rejects(Array.fromAsync(session.output), isUnreachable)
    await assert.rejects(session.exit, isUnreachable)
    await assert.rejects(session.write(Buffer.from('x')), isUnreachable)
  })

test('a program that is refused says why', async () => {
  await using hostile = await connectHostile()
  const starting = hostile.agent.exec({ argv: [], tty: false, env: {}, cwd: '', user: '', timeoutMs: 0, rows: 0, cols: 0 })
  const body = '{"code":"upgrade","message":"not here"}'
  hostile.guest.write(data(1, `HTTP/1.1 426 X\r\nContent-Length: ${body.length}\r\n\r\n${body}`, frameFlags.fin))
  await assert.rejects(starting, /not here/)
})

test('a guest that reads nothing holds an upload to its window', async () => {
  await using hostile = await connectHostile()
  let taken = 0
  async function* content(): AsyncGenerator<Buffer> {
    for (;;) {
      taken += 65_536
      yield Buffer.alloc(65_536)
    }
  }
  const upload = hostile.agent.writeFile('/x', { mode: 0o644 }, Readable.from(content()))
  const failed = assert.rejects(upload, isUnreachable)
  await until(() => hostile.received().length > WINDOW_BYTES)
  await delay(50)
  assert.ok(taken < 3 * WINDOW_BYTES, `${taken} bytes were taken`)
  hostile.agent.close()
  await failed
})

test('random frames never do more than end the session', async () => {
  for (let round = 0; round < 60; round++) {
    await using hostile = await connectHostile()
    const asked = Promise.allSettled([hostile.agent.health(), hostile.agent.stat('/', true), hostile.agent.readArchive('/', true)])
    for (let i = 0; i < 40 && !hostile.guest.destroyed; i++) {
      const length = Math.floor(Math.random() * 400)
      const type = Math.floor(Math.random() * 3)
      const flags = [0, 0, frameFlags.ack, frameFlags.fin, frameFlags.rst][Math.floor(Math.random() * 5)] ?? 0
      const frame = headerOf(type, flags, Math.floor(Math.random() * 8), length)
      hostile.guest.write(type === frameTypes.data ? Buffer.concat([frame, randomBytes(length)]) : frame)
    }
    hostile.agent.close()
    await asked
  }
})

test('no stream more than the agent can hold is opened', () => {
  const [host, guest] = duplexPair()
  const session = new YamuxSession(host, hostMagic)
  const streams = Array.from({ length: 512 }, () => session.open())
  assert.throws(
    () => session.open(),
    (error) => isHypemanError(error, 'busy'),
  )
  streams[0]?.destroy()
  session.open()
  session.end(new Error('done'))
  guest.destroy()
})

test('what the host sends never holds its preamble, whatever the data and its length', () => {
  const pieces = [hostMagic, hostMagic.subarray(1), hostMagic.subarray(0, 15), hostMagic.subarray(8), Buffer.from([0x9d]), Buffer.alloc(7)]
  for (let round = 0; round < 3_000; round++) {
    let rest = Buffer.concat(
      Array.from({ length: 1 + Math.floor(Math.random() * 30) }, () => pieces[Math.floor(Math.random() * pieces.length)] ?? hostMagic),
    )
    // Lengths whose last byte is the preamble's first are the dangerous ones.
    if (round % 2 === 0) rest = Buffer.concat([hostMagic.subarray(1), rest, Buffer.alloc(0x100)]).subarray(0, 0x9d)
    const original = rest
    const wire: Buffer[] = []
    const sent: Buffer[] = []
    while (rest.length > 0) {
      const length = safeLength(rest, hostMagic)
      assert.ok(length > 0)
      wire.push(headerOf(frameTypes.data, 0, 1, length), rest.subarray(0, length))
      sent.push(rest.subarray(0, length))
      rest = rest.subarray(length)
    }
    assert.ok(!Buffer.concat(wire).includes(hostMagic))
    assert.ok(Buffer.concat(sent).equals(original))
  }
})
