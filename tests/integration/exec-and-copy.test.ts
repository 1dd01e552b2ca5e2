// Commands and files in a real guest over the WebSockets: bytes arrive as they were sent, programs end as they ended, large copies keep the server small.

import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { after, before, test } from 'node:test'
import { copyIn, copyOut } from '../../src/client/copy.ts'
import { openExec, type ExecRequest } from '../../src/client/exec.ts'
import { runMachine, shell } from '../support/machine.ts'
import { startServer } from '../support/server.ts'

const server = await startServer()
after(() => server[Symbol.asyncDispose]())
let id = ''
before(async () => {
  id = await runMachine(server, { name: 'guest', size: '512MB', overlay_size: '2GB' })
})

const endpoint = (): { baseUrl: string; token: string } => ({ baseUrl: server.url, token: server.token })
const soon = (): AbortSignal => AbortSignal.timeout(120_000)

interface Outcome {
  readonly output: Buffer
  readonly exitCode: number
}

/** Runs a command; `input` is sent, then its end. */
async function execute(request: Partial<ExecRequest>, input?: Buffer): Promise<Outcome> {
  using exec = await openExec(endpoint(), id, { command: [], tty: false, ...request }, soon())
  const chunks: Buffer[] = []
  const reading = (async () => {
    for await (const one of exec.outputs()) {
      if (one.kind === 'exit') return one.exitCode
      chunks.push(one.data)
    }
    throw new Error('no exit code')
  })()
  if (input !== undefined) {
    for (let at = 0; at < input.length; at += 65_536) await exec.write(input.subarray(at, at + 65_536))
    await exec.endInput()
  }
  const exitCode = await reading
  return { output: Buffer.concat(chunks), exitCode }
}

test('every byte goes through a command and comes back as it was', async () => {
  const bytes = Buffer.concat([Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)), randomBytes(3 * 1024 ** 2 + 17)])
  const { output, exitCode } = await execute({ command: ['cat'] }, bytes)
  assert.equal(exitCode, 0)
  assert.equal(Buffer.compare(output, bytes), 0)
})

test('environment, directory, exit code and signals are told as they are', async () => {
  const told = await execute({ command: ['/bin/sh', '-c', 'echo $A-$(pwd); exit 7'], env: { A: 'b c' }, cwd: '/tmp' })
  assert.deepEqual([told.output.toString(), told.exitCode], ['b c-/tmp\n', 7])
  assert.equal((await execute({ command: ['/bin/sh', '-c', 'kill -9 $$'] })).exitCode, 137)
})

test('a command that can not be started says why and ends with 127', async () => {
  const { output, exitCode } = await execute({ command: ['/no/such/thing'] })
  assert.equal(exitCode, 127)
  assert.match(output.toString(), /^Error: .*\r\n$/)
})

test('a command that takes too long is ended with 124, and what it started is gone', async () => {
  const { exitCode } = await execute({ command: ['/bin/sh', '-c', 'sleep 4321 & sleep 4321'], timeout: 1 })
  assert.equal(exitCode, 124)
  assert.equal(await shell(server, id, 'ps | grep -c "sleep 432[1]" || true'), '0')
})

test('a terminal has the size that it was given, and is told when that changes', async () => {
  using exec = await openExec(
    endpoint(),
    id,
    { command: ['/bin/sh', '-c', 'stty size; read line; stty size'], tty: true, rows: 33, cols: 101 },
    soon(),
  )
  let text = ''
  let resized = false
  for await (const one of exec.outputs()) {
    if (one.kind === 'exit') break
    text += one.data.toString()
    if (resized || !text.includes('33 101')) continue
    resized = true
    await exec.resize(44, 111)
    await exec.write(Buffer.from('go\n'))
  }
  assert.match(text, /33 101[\s\S]*44 111/)
})

test('a client that hangs up ends its command', async () => {
  const exec = await openExec(endpoint(), id, { command: ['/bin/sh', '-c', 'echo started; exec sleep 8765'], tty: false }, soon())
  for await (const one of exec.outputs()) if (one.kind === 'output') break
  exec[Symbol.dispose]()
  await shell(server, id, 'while ps | grep -q "sleep 876[5]"; do sleep 0.1; done')
})

test('thirty commands at once each get their own output', async () => {
  const outcomes = await Promise.all(
    Array.from({ length: 30 }, (_, index) => execute({ command: ['/bin/sh', '-c', `echo ${index}; cat`] }, Buffer.from(`in ${index}\n`))),
  )
  for (const [index, { output }] of outcomes.entries()) assert.equal(output.toString(), `${index}\nin ${index}\n`)
})

const LARGE_BYTES = 200 * 1024 ** 2
/** How much the server may grow while a file of that size goes through it, in bytes. */
const GROWTH_LIMIT_BYTES = 64 * 1024 ** 2

test('a 200 MiB file goes in and comes out whole, and the server stays small', { timeout: 280_000 }, async () => {
  const chunk = randomBytes(1024 ** 2)
  const sent = createHash('sha256')
  const content = async function* (): AsyncGenerator<Buffer> {
    for (let at = 0; at < LARGE_BYTES; at += chunk.length) {
      chunk.writeUInt32LE(at / chunk.length)
      const copy = Buffer.from(chunk)
      sent.update(copy)
      yield* pieces(copy)
    }
  }
  const before = await residentBytes()
  let peak = before
  const watch = setInterval(() => void residentBytes().then((bytes) => (peak = Math.max(peak, bytes))), 100)
  try {
    await copyIn(endpoint(), id, { path: '/root/large', directory: false, mode: 0o600 }, content(), soon())
    const digest = sent.digest('hex')
    assert.equal(await shell(server, id, 'wc -c < /root/large'), String(LARGE_BYTES))
    const received = createHash('sha256')
    for await (const { entry, body } of copyOut(endpoint(), id, { path: '/root/large', followLinks: false }, soon())) {
      assert.deepEqual([entry.path, entry.kind, entry.size, entry.mode], ['large', 'file', LARGE_BYTES, 0o600])
      for await (const piece of body) received.update(piece)
    }
    assert.equal(received.digest('hex'), digest)
  } finally {
    clearInterval(watch)
  }
  assert.ok(peak - before < GROWTH_LIMIT_BYTES, `the server grew by ${Math.round((peak - before) / 1024 ** 2)} MiB`)
})

test('a directory comes out with its modes, links and times, and nothing that points out of it', async () => {
  await shell(
    server,
    id,
    'mkdir -p /root/tree/sub; echo a > /root/tree/sub/a; chmod 640 /root/tree/sub/a; ln -s sub/a /root/tree/link; ln -s /etc/passwd /root/tree/absolute',
  )
  const seen = new Map<string, string>()
  for await (const { entry, body } of copyOut(endpoint(), id, { path: '/root/tree', followLinks: false }, soon())) {
    let text = ''
    for await (const piece of body) text += piece.toString()
    seen.set(entry.path, `${entry.kind} ${entry.mode.toString(8)} ${entry.linkTarget}${text.trim()}`)
  }
  assert.equal(seen.get('tree'), 'directory 755 ')
  assert.equal(seen.get('tree/sub/a'), 'file 640 a')
  assert.match(seen.get('tree/link') ?? '', /^symlink .* sub\/a$/)
})

test('what can not be copied is refused with the reason', async () => {
  const into = copyIn(endpoint(), id, { path: '/root/tree', directory: false, mode: 0o644 }, content('x'), soon())
  await assert.rejects(into, /directory/)
  const from = async (): Promise<void> => {
    for await (const _ of copyOut(endpoint(), id, { path: '/no/such/file', followLinks: false }, soon()));
  }
  await assert.rejects(from(), /stat/)
})

async function* content(text: string): AsyncGenerator<Buffer> {
  yield Buffer.from(text)
}

function* pieces(chunk: Buffer): Generator<Buffer> {
  for (let at = 0; at < chunk.length; at += 32_768) yield chunk.subarray(at, at + 32_768)
}

async function residentBytes(): Promise<number> {
  return Number(/VmRSS:\s+(\d+) kB/.exec(await readFile(`/proc/${server.pid}/status`, 'utf8'))?.[1]) * 1024
}
