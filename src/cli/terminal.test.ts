// The command line at a real terminal: keys, sizes and interrupts with exec -it, and tables that are drawn over themselves. What is asserted is what a person sees.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fakeInstance, frameText, startFakeServer } from '../../tests/support/fake-server.ts'
import { until } from '../../tests/support/until.ts'
import { openScreen, type Screen } from '../../tests/support/screen.ts'

test('exec at a terminal: keys and Ctrl-C go to the guest, the size follows, the exit code comes back', async () => {
  await using server = await startFakeServer()
  const keys: string[] = []
  const sizes: unknown[] = []
  let start: Readonly<Record<string, unknown>> | undefined
  server.onSocket('/instances/web/exec', (socket, first) => {
    start = first
    socket.send(Buffer.from('\x1b[32m$ \x1b[0m'))
    socket.on('message', (data, isBinary) => {
      if (!isBinary) return void sizes.push((JSON.parse(frameText(data)) as { readonly resize: unknown }).resize)
      keys.push(frameText(data))
      if (frameText(data) === 'q') {
        socket.send(JSON.stringify({ exitCode: 7 }))
        socket.close()
      } else socket.send(data as Buffer)
    })
  })
  await using screen = openTerminal(server.url, ['exec', '-it', 'web', 'sh'])
  await until('the prompt is shown', () => screen.lines()[0] === '$')
  assert.deepEqual([start?.['tty'], start?.['rows'], start?.['cols'], start?.['command']], [true, 24, 80, ['sh']])
  screen.type('ls')
  await until('the echo of the guest is shown, and only that', () => screen.lines()[0] === '$ ls')
  screen.resize(100, 30)
  await until('the guest knows the size', () => sizes.length > 0)
  assert.deepEqual(sizes.at(-1), { rows: 30, cols: 100 })
  screen.type('\x03')
  await until('Ctrl-C has reached the guest', () => keys.join('') === 'ls\x03')
  screen.type('q')
  assert.equal(await screen.exitCode, 7)
})

test('exec without flags is at a terminal when we are', async () => {
  await using server = await startFakeServer()
  let start: Readonly<Record<string, unknown>> | undefined
  server.onSocket('/instances/web/exec', (socket, first) => {
    start = first
    socket.send(JSON.stringify({ exitCode: 0 }))
    socket.close()
  })
  await using screen = openTerminal(server.url, ['exec', 'web'])
  assert.equal(await screen.exitCode, 0)
  assert.deepEqual([start?.['tty'], start?.['command'], start?.['env']], [true, [], { TERM: 'xterm-256color' }])
})

test('many forks are shown as a table that is drawn in place and stays when all are made', async () => {
  await using server = await startFakeServer()
  server.on('GET /snapshots', { json: [] })
  const gates = new Map(['w-1', 'w-2', 'w-3'].map((name) => [name, Promise.withResolvers<void>()]))
  server.on('POST /snapshots/snap/fork', async (request) => {
    const { name } = request.body as { readonly name: string }
    await gates.get(name)?.promise
    return { status: 201, json: fakeInstance(name) }
  })
  await using screen = openTerminal(server.url, ['snapshot', 'fork', 'snap', '--count', '3', '--name-prefix', 'w', '--parallel', '2'])
  await until('two are under way', () => states(screen.lines()).join() === 'forking,forking,waiting')
  gates.get('w-2')?.resolve()
  await until('one is made and the next begun', () => states(screen.lines()).join() === 'forking,Running,forking')
  gates.get('w-1')?.resolve()
  gates.get('w-3')?.resolve()
  assert.equal(await screen.exitCode, 0)
  await until('the table stays', () => states(screen.lines()).join() === 'Running,Running,Running')
  assert.equal(screen.lines().filter((line) => line !== '').length, 4)
})

test('rm asks at a terminal; what is not agreed to stays', async () => {
  await using server = await startFakeServer()
  server.on('GET /instances/web', { json: fakeInstance('web') })
  server.on('DELETE /instances/web', {})
  await using asked = openTerminal(server.url, ['rm', 'web'])
  await until('it asks', () => asked.lines().some((line) => line.includes('web is Running. Delete it?')))
  asked.type('n')
  assert.equal(await asked.exitCode, 1)
  await using agreed = openTerminal(server.url, ['rm', 'web'])
  await until('it asks', () => agreed.lines().some((line) => line.includes('web is Running. Delete it?')))
  agreed.type('y')
  assert.equal(await agreed.exitCode, 0)
  assert.equal(server.requests.filter(({ method }) => method === 'DELETE').length, 1)
})

test('Ctrl-C ends a command that waits with 130 and leaves the line clean', async () => {
  await using server = await startFakeServer()
  server.on('POST /instances/web/standby', () => new Promise(() => undefined))
  await using screen = openTerminal(server.url, ['standby', 'web'])
  await until('it says what it waits for', () => screen.lines()[0]?.includes('Writing the memory of web to disk') === true)
  screen.type('\x03')
  assert.equal(await screen.exitCode, 130)
  await until('what is open is told', () =>
    screen.lines().join('').includes('Interrupted before the server answered POST /instances/web/standby: it may still do it'),
  )
  assert.ok(!screen.lines().join('').includes('Writing'))
})

function openTerminal(url: string, words: readonly string[]): Screen {
  return openScreen(words, { PATH: process.env['PATH'] ?? '', HYPEMAN_BASE_URL: url, HYPEMAN_API_KEY: 'token' })
}

function states(lines: readonly string[]): string[] {
  return lines.flatMap((line) => /^w-\d+ +(\w+)/.exec(line)?.[1] ?? [])
}
