// The host's side against the real agent, run as a process of this machine.

import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { Duplex, Readable } from 'node:stream'
import { after, before, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { unpackTar } from 'modern-tar'
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
import { connectAgent } from './client.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'hypeman-client-'))
let guest: GuestAgentProcess
before(async () => {
  guest = await startGuestAgent()
})
after(async () => {
  await guest[Symbol.asyncDispose]()
  await rm(root, { recursive: true })
})

test('the agent tells of itself', async () => {
  await using connection = await connectTo(guest)
  const health = await connection.agent.health()
  assert.equal(health.protocol, 1)
  assert.equal(health.workload.state, 'waiting')
  const stats = await connection.agent.stats()
  assert.ok(stats.memoryTotalBytes > 0 && stats.processes > 0 && stats.networkSentBytes >= 0)
  await connection.agent.sync()
})

test('files are written, looked at, and come back as an archive', async () => {
  await using connection = await connectTo(guest)
  const directory = await mkdtemp(path.join(root, 'files-'))
  const content = randomBytes(2_000_000)
  const target = path.join(directory, 'a b/ü/file')
  const { bytesWritten } = await connection.agent.writeFile(target, { mode: 0o640 }, Readable.from([content]))
  assert.equal(bytesWritten, content.length)
  assert.ok((await readFile(target)).equals(content))
  await connection.agent.makeDirectory(path.join(directory, 'made'), { mode: 0o700 })
  await symlink('a b', path.join(directory, 'link'))
  const info = await connection.agent.stat(target, false)
  assert.deepEqual(
    { ...info },
    { exists: true, isDir: false, isFile: true, isSymlink: false, linkTarget: undefined, mode: 0o640, size: 2_000_000, error: undefined },
  )
  assert.equal((await connection.agent.stat(path.join(directory, 'link'), false)).linkTarget, 'a b')
  assert.equal((await connection.agent.stat(path.join(directory, 'none'), true)).exists, false)
  const archive = await connection.agent.readArchive(directory, false)
  const entries = await unpackTar(Readable.toWeb(archive) as never, { strict: true })
  assert.deepEqual(
    entries.map(({ header }) => header.name.replace(path.basename(directory), '.')),
    ['./', './a b/', './a b/ü/', './a b/ü/file', './link', './made/'],
  )
})

test('an archive that is read slowly is whole', async () => {
  await using connection = await connectTo(guest)
  const file = path.join(await mkdtemp(path.join(root, 'slow-')), 'file')
  const content = randomBytes(700_000)
  await writeFile(file, content)
  const archive = await connection.agent.readArchive(file, false)
  const digest = createHash('sha256')
  let bytes = 0
  for await (const chunk of archive as AsyncIterable<Buffer>) {
    if (bytes < 512 + content.length) digest.update(chunk.subarray(Math.max(0, 512 - bytes), 512 + content.length - bytes))
    bytes += chunk.length
    await delay(1)
  }
  assert.equal(bytes % 512, 0)
  assert.ok(bytes >= 512 + content.length)
})

test('refusals of the agent keep their meaning, also when an upload is under way', async () => {
  await using connection = await connectTo(guest)
  const directory = await mkdtemp(path.join(root, 'refused-'))
  await mkdir(path.join(directory, 'sub'))
  await assert.rejects(connection.agent.readArchive('/no/such/file', false), hasCode('not_found'))
  await assert.rejects(connection.agent.makeDirectory('/proc/version', { mode: 0o755 }), hasCode('invalid_request'))
  // Endless content: the answer counts, not that the rest is not taken.
  let stopped = false
  async function* endless(): AsyncGenerator<Buffer> {
    try {
      for (;;) yield Buffer.alloc(65_536)
    } finally {
      stopped = true
    }
  }
  await assert.rejects(
    connection.agent.writeFile(path.join(directory, 'sub'), { mode: 0o644 }, Readable.from(endless())),
    hasCode('invalid_request'),
  )
  await until('the upload has ended', () => stopped)
  assert.deepEqual(await readdir(directory), ['sub'])
})

test('an upload whose source fails leaves nothing and ends its request alone', async () => {
  await using connection = await connectTo(guest)
  const directory = await mkdtemp(path.join(root, 'source-'))
  async function* failing(): AsyncGenerator<Buffer> {
    yield Buffer.alloc(100_000)
    throw new Error('the client has gone')
  }
  await assert.rejects(connection.agent.writeFile(path.join(directory, 'x'), { mode: 0o644 }, Readable.from(failing())))
  await until('the temporary file is gone', async () => (await readdir(directory)).length === 0)
  await connection.agent.health()
})

test('an aborted request rejects with the reason, and the connection goes on', async () => {
  await using connection = await connectTo(guest)
  const reason = new Error('enough')
  await assert.rejects(connection.agent.health(AbortSignal.abort(reason)), reason)
  const abort = new AbortController()
  async function* slow(): AsyncGenerator<Buffer> {
    yield Buffer.from('x')
    abort.abort(reason)
    await delay(50)
    yield Buffer.from('y')
  }
  await assert.rejects(connection.agent.writeFile(path.join(root, 'aborted'), { mode: 0o644 }, Readable.from(slow()), abort.signal), reason)
  await connection.agent.health()
})

test('a connection that is closed fails everything under way, and a new one works', async () => {
  const connection = await connectTo(guest)
  const session = await connection.agent.exec(shell('sleep 1000'))
  const output = outputOf(session)
  const archive = await connection.agent.readArchive('/proc/version', false)
  archive.on('error', () => undefined)
  await connection[Symbol.asyncDispose]()
  await assert.rejects(output, hasCode('guest_unreachable'))
  await assert.rejects(session.exit, hasCode('guest_unreachable'))
  await assert.rejects(connection.agent.health(), hasCode('guest_unreachable'))
  await using next = await connectTo(guest)
  await next.agent.health()
  await until('the program is gone', async () => (await programsOf(guest)).length === 0)
})

/** Two connections of the host over one channel of the guest, as with a virtio port: the first one's bytes end after `passed`, wherever that is. */
class Line extends Duplex {
  readonly #below: Duplex
  #passed: number
  readonly #onData = (chunk: Buffer): void => void this.push(chunk)

  constructor(below: Duplex, passed: number) {
    super()
    this.#below = below
    this.#passed = passed
    below.on('data', this.#onData)
  }

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    const piece = chunk.subarray(0, this.#passed)
    this.#passed -= piece.length
    if (piece.length === 0) done()
    else this.#below.write(piece, done)
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#below.off('data', this.#onData)
    done(error)
  }
}

test('a connection that was cut at any byte is taken up by the next over the same channel', async () => {
  for (let cut = 0; cut < 400; cut += 7) {
    const below = await guest.connect()
    try {
      const first = new Line(below, cut)
      const attempt = connectAgent(first, AbortSignal.timeout(40))
        .then((agent) => agent.exec(shell('cat'), AbortSignal.timeout(40)))
        .then((session) => session.write(Buffer.alloc(500)))
        .catch((error: unknown) => error)
      await Promise.race([attempt, delay(cut < 40 ? 10 : 30)])
      first.destroy()
      const agent = await connectAgent(new Line(below, Number.POSITIVE_INFINITY), AbortSignal.timeout(5_000))
      const session = await agent.exec(shell('echo alive'))
      assert.equal((await outputOf(session)).stdout, 'alive\n', `cut after ${cut} bytes`)
      agent.close()
      await attempt
    } finally {
      below.destroy()
    }
  }
  await until('what the cut connections started is gone', async () => (await programsOf(guest)).length === 0)
})

test('a guest that never answers is given up when the signal says so', async () => {
  const silent = new Line(await guest.connect(), 5)
  await assert.rejects(connectAgent(silent, AbortSignal.timeout(50)), /timeout/)
  silent.destroy()
  await assert.rejects(connectAgent(silent, AbortSignal.timeout(50)), hasCode('guest_unreachable'))
})
