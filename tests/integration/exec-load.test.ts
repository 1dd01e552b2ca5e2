// Many programs in one guest at once, and clients that read nothing or vanish: nothing is mixed up, nothing is left, the server stays small.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { after, before, test } from 'node:test'
import { openExecSocket, openSocket } from '../support/exec-socket.ts'
import { footprintOf, grownSince, residentBytes } from '../support/footprint.ts'
import { runMachine, shell } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { until } from '../support/until.ts'

const AT_ONCE = 100
const MIB = 1024 ** 2
/** What the heap may differ by between two looks, in bytes. */
const MEMORY_SLACK_BYTES = 48 * MIB

const server = await startServer()
after(() => server[Symbol.asyncDispose]())
let id = ''
before(async () => {
  id = await runMachine(server, { name: 'guest', size: '512MB' })
})

/** What the guest's agent, which is its init, has open, and how many programs there are beside the one that counts. */
async function openInGuest(): Promise<string> {
  return shell(server, id, 'ls /proc/1/fd | wc -l; ls -d /proc/[0-9]* | wc -l')
}

interface Kind {
  readonly script: (index: number) => string
  readonly tty?: true
  readonly input?: (index: number) => string
  readonly expected: (index: number) => string
}

const LONG = 100_000
const letterOf = (index: number): string => String.fromCodePoint(97 + (index % 26))

/** Each says that it is there, and goes on when it is told to. */
const kinds: readonly Kind[] = [
  { script: (index) => `echo end ${index}`, expected: (index) => `end ${index}\n` },
  {
    script: () => 'head -n 3',
    input: (index) => `a ${index}\nb ${index}\nc ${index}\n`,
    expected: (index) => `a ${index}\nb ${index}\nc ${index}\n`,
  },
  { script: (index) => `head -c ${LONG} /dev/zero | tr '\\000' ${letterOf(index)}`, expected: (index) => letterOf(index).repeat(LONG) },
  { script: () => 'stty size', tty: true, expected: (index) => `${20 + index} ${100 + index}\r\n` },
]

async function runOne(index: number, allThere: Promise<void>, there: () => void): Promise<void> {
  const { script, tty = false, input, expected } = kinds[index % kinds.length] ?? assert.fail()
  const quiet = tty ? 'stty -echo; ' : ''
  const command = ['/bin/sh', '-c', `${quiet}echo ready ${index}; read go; ${script(index)}; exit ${index}`]
  const exec = await openExecSocket(server, id, { command, tty, rows: 24, cols: 80 })
  await exec.saw(`ready ${index}`)
  there()
  await allThere
  if (tty) exec.socket.send(JSON.stringify({ resize: { rows: 20 + index, cols: 100 + index } }))
  exec.socket.send(Buffer.from('go\n'))
  for (const line of input?.(index).split(/(?<=\n)/) ?? []) exec.socket.send(Buffer.from(line))
  const { exitCode } = await exec.ended
  assert.equal(exitCode, index)
  const opening = tty ? `ready ${index}\r\n` : `ready ${index}\n`
  assert.equal(exec.output(), `${opening}${expected(index)}`, `program ${index}`)
}

async function runAll(): Promise<void> {
  const allThere = Promise.withResolvers<void>()
  let waitedFor = AT_ONCE
  const there = (): void => {
    waitedFor -= 1
    if (waitedFor === 0) allThere.resolve()
  }
  await Promise.all(Array.from({ length: AT_ONCE }, (_, index) => runOne(index, allThere.promise, there)))
}

test(
  `${AT_ONCE} programs run at once, each with its own input, output, terminal and exit code, and leave nothing`,
  { timeout: 280_000 },
  async (context) => {
    await runAll()
    const [held, memory, inGuest] = [footprintOf(server), residentBytes(server), await openInGuest()]
    await runAll()
    assert.deepEqual(await grownSince(server, held), [])
    await until('the guest has as much open as before', async () => (await openInGuest()) === inGuest)
    const grown = residentBytes(server) - memory
    context.diagnostic(`${Math.round(grown / MIB)} MiB more than after the first ${AT_ONCE}`)
    assert.ok(grown < MEMORY_SLACK_BYTES, `the server grew by ${Math.round(grown / MIB)} MiB`)
  },
)

test('clients that vanish leave no program behind, whether it writes, waits or ignores the hang-up; what left its session goes on', async () => {
  const scripts = ['yes 87651', 'sleep 87652', "trap '' HUP; echo; sleep 87653", 'sleep 87654 & wait', 'setsid sleep 87655 & echo; wait']
  const execs = await Promise.all(
    scripts.map((script) => openExecSocket(server, id, { command: ['/bin/sh', '-c', `echo started; ${script}`] })),
  )
  for (const exec of execs) await exec.saw('started')
  await shell(server, id, 'while [ $(ps | grep -c "8765[1-5]$") -lt 5 ]; do sleep 0.1; done')
  for (const { socket } of execs) socket.terminate()
  await shell(server, id, 'while ps | grep -q "8765[1-4]"; do sleep 0.1; done')
  assert.equal(await shell(server, id, `kill $(ps | grep "sleep 8765[5]" | sed 's/^ *\\([0-9]*\\) .*/\\1/') && echo there`), 'there')
})

test('clients that vanish in the middle of a copy leave no half file, and nothing open', async () => {
  await shell(server, id, 'mkdir -p /root/in /root/out; head -c 20000000 /dev/zero > /root/out/large')
  const inGuest = await openInGuest()
  const writing = await openSocket(server, `/instances/${id}/cp`, {
    direction: 'to',
    guest_path: '/root/in/file',
    is_dir: false,
    mode: 420,
  })
  writing.send(Buffer.alloc(MIB))
  await shell(server, id, 'while [ -z "$(ls -A /root/in)" ]; do sleep 0.1; done')
  const reading = await openSocket(server, `/instances/${id}/cp`, { direction: 'from', guest_path: '/root/out/large', follow_links: false })
  await once(reading, 'message')
  reading.pause()
  await shell(server, id, 'while ! ls -l /proc/1/fd | grep -q /root/out/large; do sleep 0.1; done')
  writing.terminate()
  reading.terminate()
  await shell(server, id, 'while [ -n "$(ls -A /root/in)" ]; do sleep 0.1; done')
  await until('the agent has closed its files', async () => (await openInGuest()) === inGuest)
})

test('a client that reads nothing holds back its program and nobody else, and the server does not grow', async () => {
  const memory = residentBytes(server)
  const script = 'n=0; while head -c 65536 /dev/zero; do n=$((n+1)); echo $n > /tmp/written; done'
  const exec = await openExecSocket(server, id, { command: ['/bin/sh', '-c', script] })
  await until('output comes', () => exec.output().length > 0)
  exec.socket.pause()
  const written = async (): Promise<number> => Number(await shell(server, id, 'cat /tmp/written')) * 65_536
  let [earlier, now] = [-1, await written()]
  while (earlier !== now) {
    await delay(500)
    ;[earlier, now] = [now, await written()]
  }
  assert.ok(now - exec.output().length < 24 * MIB, `${now} bytes were taken that nobody reads`)
  const grown = residentBytes(server) - memory
  assert.ok(grown < MEMORY_SLACK_BYTES, `the server grew by ${Math.round(grown / MIB)} MiB`)
  exec.socket.resume()
  await until('the program goes on', async () => (await written()) > now)
  exec.socket.terminate()
  await shell(server, id, 'while ps | grep -q "[h]ead -c 65536"; do sleep 0.1; done')
})

test('pings are answered while a program runs', async () => {
  const exec = await openExecSocket(server, id, { command: ['/bin/sh', '-c', 'echo started; read line; exit 3'] })
  await exec.saw('started')
  exec.socket.ping('are you there')
  const [payload] = (await once(exec.socket, 'pong')) as [Buffer]
  assert.equal(payload.toString(), 'are you there')
  exec.socket.send(Buffer.from('\n'))
  assert.deepEqual(await exec.ended, { exitCode: 3 })
})
