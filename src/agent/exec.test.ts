// Programs in the guest, against the real agent, run as a process of this machine.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdtemp, rm, stat } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, before, test } from 'node:test'
import {
  connectTo,
  hasCode,
  outputOf,
  programsOf,
  shell,
  startGuestAgent,
  type GuestAgentProcess,
} from '../../tests/support/guest-agent.ts'
import { until } from '../../tests/support/until.ts'
import { hostMagic } from './channel.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'hypeman-exec-'))
let guest: GuestAgentProcess
before(async () => {
  guest = await startGuestAgent()
})
after(async () => {
  await guest[Symbol.asyncDispose]()
  await rm(root, { recursive: true })
})

/** Runs and returns how much the memory that streams use has grown at most, in bytes. */
async function watchMemory(act: () => Promise<void>): Promise<number> {
  globalThis.gc?.()
  const before = process.memoryUsage().arrayBuffers
  let most = 0
  const timer = setInterval(() => (most = Math.max(most, process.memoryUsage().arrayBuffers - before)), 5)
  try {
    await act()
  } finally {
    clearInterval(timer)
  }
  return most
}

test('a program gives its output, exit code and signal', async () => {
  await using connection = await connectTo(guest)
  const one = await connection.agent.exec(shell('echo out; echo err >&2; exit 7'))
  assert.deepEqual(await outputOf(one), { stdout: 'out\n', stderr: 'err\n' })
  assert.deepEqual(await one.exit, { exitCode: 7, signal: undefined, timedOut: undefined, error: undefined })
  const other = await connection.agent.exec(shell('kill -9 $$'))
  await outputOf(other)
  assert.equal((await other.exit).signal, 'SIGKILL')
  const late = await connection.agent.exec(shell('sleep 1000', { timeoutMs: 50 }))
  await outputOf(late)
  assert.deepEqual(await late.exit, { exitCode: 124, signal: 'SIGKILL', timedOut: true, error: undefined })
  const missing = await connection.agent.exec(shell('', { argv: ['/no/such'] }))
  assert.deepEqual(await outputOf(missing), { stdout: '', stderr: '' })
  assert.match((await missing.exit).error ?? '', /not found/)
})

test('a terminal takes input, sizes and signals', async () => {
  await using connection = await connectTo(guest)
  const session = await connection.agent.exec(shell('stty size; cat', { tty: true, rows: 11, cols: 22 }))
  let seen = ''
  for await (const { data } of session.output) {
    seen += data.toString()
    if (seen === '11 22\r\n') {
      await session.resize(33, 44)
      await session.write(Buffer.from('hello\n'))
    }
    if (seen.endsWith('hello\r\nhello\r\n')) await session.endInput()
  }
  assert.equal((await session.exit).exitCode, 0)
})

test('hundreds of megabytes pass both ways in flat memory', async () => {
  await using connection = await connectTo(guest)
  const bytes = 200 * 1024 ** 2
  const outward = await watchMemory(async () => {
    const session = await connection.agent.exec(shell(`head -c ${bytes} /dev/zero`))
    let seen = 0
    for await (const { data } of session.output) seen += data.length
    assert.equal(seen, bytes)
    assert.equal((await session.exit).exitCode, 0)
  })
  const inward = await watchMemory(async () => {
    const session = await connection.agent.exec(shell('wc -c'))
    const piece = Buffer.alloc(1024 ** 2)
    for (let sent = 0; sent < bytes; sent += piece.length) await session.write(piece)
    await session.endInput()
    assert.equal((await outputOf(session)).stdout, `${bytes}\n`)
  })
  assert.ok(outward < 96 * 1024 ** 2, `reading took ${outward} bytes`)
  assert.ok(inward < 96 * 1024 ** 2, `writing took ${inward} bytes`)
})

test('binary data comes back as it was, also what looks like the preamble of a connection', async () => {
  await using connection = await connectTo(guest)
  const noise = randomBytes(3_000_000)
  for (let at = 0; at < noise.length - 200; at += 9_973) hostMagic.copy(noise, at)
  for (let at = 100; at < 3_000; at += 15) hostMagic.copy(noise, at, 0, 15)
  const session = await connection.agent.exec(shell('cat'))
  const sending = (async () => {
    await session.write(noise)
    await session.endInput()
  })()
  const parts: Buffer[] = []
  for await (const { data } of session.output) parts.push(data)
  await sending
  assert.ok(Buffer.concat(parts).equals(noise))
})

test('a program whose output is not read waits, and the connection goes on', async () => {
  await using connection = await connectTo(guest)
  const marker = path.join(await mkdtemp(path.join(root, 'wait-')), 'done')
  const grown = await watchMemory(async () => {
    const session = await connection.agent.exec(shell(`head -c 200000000 /dev/zero; touch ${marker}`))
    for (let i = 0; i < 20; i++) await connection.agent.health()
    await assert.rejects(stat(marker))
    let seen = 0
    for await (const { data } of session.output) seen += data.length
    assert.equal(seen, 200_000_000)
  })
  await stat(marker)
  assert.ok(grown < 96 * 1024 ** 2, `${grown} bytes were held`)
})

test('the last output and the exit wait for a reader who comes long after the program has ended', async () => {
  await using connection = await connectTo(guest)
  const session = await connection.agent.exec(shell('head -c 200000 /dev/zero; exit 3'))
  await until('the agent has ended the program', async () => (await programsOf(guest)).length === 0)
  for (let i = 0; i < 20; i++) await connection.agent.health()
  assert.equal((await outputOf(session)).stdout.length, 200_000)
  assert.equal((await session.exit).exitCode, 3)
})

test('a hundred programs at once each give their own', async () => {
  await using connection = await connectTo(guest)
  await Promise.all(
    Array.from({ length: 100 }, async (_, n) => {
      const session = await connection.agent.exec(shell(`cat; exit ${n}`))
      const text = `program ${n} `.repeat(2_000)
      const sending = session.write(Buffer.from(text)).then(() => session.endInput())
      assert.equal((await outputOf(session)).stdout, text)
      assert.equal((await session.exit).exitCode, n)
      await sending
    }),
  )
})

test('hanging up ends the program, and its exit tells that it was', async () => {
  await using connection = await connectTo(guest)
  const session = await connection.agent.exec(shell('sleep 1000'))
  session.hangUp()
  session.hangUp()
  await assert.rejects(session.exit, hasCode('guest_unreachable'))
  await assert.rejects(session.write(Buffer.from('x')), hasCode('guest_unreachable'))
  await until('the program is gone', async () => (await programsOf(guest)).length === 0)
  const left = await connection.agent.exec(shell('yes'))
  for await (const { data } of left.output) {
    assert.ok(data.length > 0)
    break
  }
  await assert.rejects(left.exit, hasCode('guest_unreachable'))
  await until('the other is gone too', async () => (await programsOf(guest)).length === 0)
})
