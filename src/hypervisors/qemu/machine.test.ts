import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { isHypemanError } from '../../api/errors.ts'
import type { DetachedProcess, ProcessEnd } from '../../platform/process.ts'
import { fakeQmp, say, type FakeQmp, type FakeQmpOptions, type QmpRequest } from '../../../tests/support/fake-qmp.ts'
import { QemuMachine } from './machine.ts'
import { socketPath } from '../../platform/socket-path.ts'
import { isListening } from '../../platform/unix-http.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'machine-'))
after(() => rm(root, { recursive: true }))
let count = 0

interface Stage {
  readonly directory: string
  readonly machine: QemuMachine
  end(reason: string): void
}

/** A handle on a process that is not there, in a directory of its own: what matters here is the socket. */
async function stage(): Promise<Stage> {
  const directory = path.join(root, String((count += 1)))
  await mkdir(directory)
  const exited = Promise.withResolvers<ProcessEnd>()
  const process: DetachedProcess = { identity: { pid: 2 ** 30, startTicks: '0', bootId: 'none' }, exited: exited.promise }
  return { directory, machine: new QemuMachine(process, directory), end: (reason) => exited.resolve({ code: 1, reason }) }
}

const answering =
  (answers: Readonly<Record<string, unknown>>): FakeQmpOptions['answer'] =>
  ({ execute, id }: QmpRequest, socket) =>
    execute in answers && say(socket, { return: answers[execute], id })

function serve({ directory }: Stage, answers: Readonly<Record<string, unknown>>): Promise<FakeQmp> {
  return fakeQmp(path.join(directory, 'qmp.sock'), { answer: answering(answers) })
}

test("QEMU's run states are told in the contract's terms", async () => {
  const staged = await stage()
  const answers: Record<string, unknown> = {}
  await using _qmp = await serve(staged, answers)
  for (const [said, meant] of [
    ['running', 'running'],
    ['prelaunch', 'created'],
    ['paused', 'paused'],
    ['inmigrate', 'paused'],
    ['io-error', 'paused'],
    ['shutdown', 'shutdown'],
    ['guest-panicked', 'shutdown'],
  ] as const) {
    answers['query-status'] = { status: said }
    assert.equal(await staged.machine.status(), meant, said)
  }
  staged.machine.release()
})

test('the control socket is waited for, and connected to once for many commands at a time', async () => {
  const staged = await stage()
  const states = Promise.all([1, 2, 3].map(() => staged.machine.runState()))
  await using qmp = await serve(staged, { 'query-status': { status: 'running' } })
  assert.deepEqual(await states, ['running', 'running', 'running'])
  await staged.machine.runState()
  assert.equal(qmp.connections, 1)
  staged.machine.release()
})

test('a connection that was lost is opened again for the next command', async () => {
  const staged = await stage()
  {
    await using _first = await serve(staged, { 'query-status': { status: 'running' } })
    assert.equal(await staged.machine.runState(), 'running')
  }
  await using _second = await serve(staged, { 'query-status': { status: 'paused' } })
  // The first command may still meet the old connection while its end is on the way.
  const state = await staged.machine.runState().catch(() => staged.machine.runState())
  assert.equal(state, 'paused')
  staged.machine.release()
})

test('a process that ends before it listens is told at once, with its end', async () => {
  const staged = await stage()
  const asked = staged.machine.status()
  staged.end('exited with code 1')
  await assert.rejects(asked, (error) => isHypemanError(error, 'host_unavailable') && error.message === 'QEMU ended: exited with code 1')
})

test('a caller with a limit is answered in time, also while nobody greets', async () => {
  const staged = await stage()
  await using _silent = await fakeQmp(path.join(staged.directory, 'qmp.sock'), { first: '', answer: () => undefined })
  const started = performance.now()
  await assert.rejects(staged.machine.status(AbortSignal.timeout(50)), { name: 'TimeoutError' })
  assert.ok(performance.now() - started < 5_000, 'well before the limit of connecting')
  staged.machine.release()
  staged.end('killed')
})

test('a caller with a limit is answered in time by a QEMU that hangs', async () => {
  const staged = await stage()
  await using _hanging = await serve(staged, {})
  await assert.rejects(staged.machine.status(AbortSignal.timeout(50)), { name: 'TimeoutError' })
  staged.machine.release()
})

for (const [what, blocks] of [
  ['no disks', []],
  ['another disk', [{ device: 'rootfs', inserted: { file: 'disk-1.qcow2', 'node-name': 'a' } }]],
  ['a file that is no layer', [{ device: 'system', inserted: { file: '/etc/passwd', 'node-name': 'a' } }]],
] as const)
  test(`a QEMU that names ${what} for the system disk is not believed`, async () => {
    const staged = await stage()
    await using _qmp = await serve(staged, { 'query-block': blocks })
    await assert.rejects(staged.machine.activeLayer(), (error) => isHypemanError(error, 'host_unavailable'))
    staged.machine.release()
  })

test('the layer in use is the one that QEMU names', async () => {
  const staged = await stage()
  await using _qmp = await serve(staged, {
    'query-block': [{ device: 'system', inserted: { file: 'disk-7.qcow2', 'node-name': '#block9' } }],
  })
  assert.deepEqual(await staged.machine.activeLayer(), { node: '#block9', number: 7 })
  staged.machine.release()
})

test('opening a second agent channel closes the first, and releasing closes the last', async () => {
  const staged = await stage()
  const server = createServer((socket) => socket.on('error', () => undefined))
  server.listen(path.join(staged.directory, 'agent.sock'))
  await once(server, 'listening')
  const signal = new AbortController().signal
  const first = await staged.machine.openAgentChannel(signal)
  const firstClosed = once(first, 'close')
  const second = await staged.machine.openAgentChannel(signal)
  await firstClosed
  const secondClosed = once(second, 'close')
  staged.machine.release()
  await secondClosed
  await assert.rejects(staged.machine.openAgentChannel(AbortSignal.abort(new Error('enough'))), /enough/)
  server.close()
  await assert.rejects((await stage()).machine.openAgentChannel(signal), { code: 'ENOENT' })
})

test('a socket is listened to as long as its process lives', async () => {
  const { directory } = await stage()
  assert.equal(await isListening(path.join(directory, 'qmp.sock')), false)
  {
    await using _qmp = await fakeQmp(path.join(directory, 'qmp.sock'), { answer: () => undefined })
    assert.equal(await isListening(path.join(directory, 'qmp.sock')), true)
  }
  assert.equal(await isListening(path.join(directory, 'qmp.sock')), false)
})

test('a socket path that the kernel can not take is refused before anything is made', () => {
  const room = 107 - 'qmp.sock'.length - 1
  assert.equal(socketPath(`/${'x'.repeat(room - 1)}`, 'qmp.sock').length, 107)
  assert.throws(
    () => socketPath(`/${'x'.repeat(room)}`, 'qmp.sock'),
    (error) => isHypemanError(error, 'storage_unsuitable'),
  )
})
