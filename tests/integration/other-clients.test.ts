// Clients that speak the wire otherwise than the TypeScript client does: what the official Go command line and the Python library are known to send and to
// expect. Neither runs here; each test says which habit it stands for. How far that goes is in docs/limitations.md.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { request, type IncomingMessage } from 'node:http'
import { after, before, test } from 'node:test'
import tls from 'node:tls'
import { WebSocket } from 'ws'
import { dockerImage, pushUnlessThere } from '../support/checking-push.ts'
import { readEveryEmptyLine } from '../support/plain-events.ts'
import { readStrictly, type Copied } from '../support/strict-copy.ts'
import { runMachine, shell } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { until } from '../support/until.ts'

const server = await startServer()
after(() => server[Symbol.asyncDispose]())
let id = ''
before(async () => {
  // Its log has what is written to the pipe.
  id = await runMachine(server, { name: 'guest', cmd: ['/bin/sh', '-c', 'mkfifo /tmp/say && while :; do cat /tmp/say; done'] })
})

/** A request with the headers that the Python library sends with each one. */
async function ask(method: string, target: string, headers: Readonly<Record<string, string>> = {}, body = ''): Promise<[number, string]> {
  const sent = request(`${server.url}${target}`, {
    method,
    headers: { authorization: `Bearer ${server.token}`, accept: 'application/json', connection: 'close', ...headers },
  })
  sent.end(body)
  const [response] = (await once(sent, 'response')) as [IncomingMessage]
  let text = ''
  for await (const chunk of response) text += String(chunk)
  return [response.statusCode ?? 0, text]
}

/** Opens a WebSocket without any extension, as the Go library does, and sends the first frame. */
async function begin(target: string, first: object): Promise<WebSocket> {
  const socket = new WebSocket(`${server.url.replace('http', 'ws')}${target}`, {
    perMessageDeflate: false,
    headers: { authorization: `Bearer ${server.token}`, 'user-agent': 'Go-http-client/1.1' },
  })
  await once(socket, 'open')
  socket.send(JSON.stringify(first))
  return socket
}

interface Outcome {
  readonly output: string
  readonly texts: readonly string[]
}

/** Everything up to the first text frame. */
async function untilText(socket: WebSocket): Promise<Outcome> {
  const [output, texts]: [Buffer[], string[]] = [[], []]
  socket.on('message', (data: Buffer, isBinary) => (isBinary ? output.push(data) : texts.push(data.toString('utf8'))))
  await until('a text frame came', () => texts.length > 0, 60_000)
  return { output: Buffer.concat(output).toString('utf8'), texts }
}

test('a client that looks names up in the list of instances finds an id by its name and by its beginning', async () => {
  const [status, text] = await ask('GET', '/instances')
  assert.equal(status, 200)
  const list = JSON.parse(text) as { id: string; name: string }[]
  assert.equal(list.find(({ name }) => name === 'guest')?.id, id)
  assert.deepEqual(
    list.filter((one) => one.id.startsWith(id.slice(0, 6))).map((one) => one.name),
    ['guest'],
  )
  const [missing, why] = await ask('GET', `/instances/${id}x`)
  assert.equal(missing, 404)
  assert.equal((JSON.parse(why) as { code: string }).code, 'not_found')
})

test('a client that encodes the names of images twice learns what is missing by 404 and what is ready by name', async () => {
  const twice = (name: string): string => encodeURIComponent(encodeURIComponent(name))
  const [missing, why] = await ask('GET', `/images/${twice('docker.io/library/never:1')}`)
  assert.deepEqual([missing, (JSON.parse(why) as { code: string }).code], [404, 'not_found'])
  const [status, text] = await ask('GET', `/images/${twice('hypeman/base')}`)
  const image = JSON.parse(text) as { name: string; status: string }
  assert.deepEqual([status, image.status], [200, 'ready'])
  assert.equal((await ask('GET', `/images/${twice(image.name)}`))[0], 200, 'by the name that the answer gave')
})

test('a client that says of each request that it is JSON may send none', async () => {
  const json = { 'content-type': 'application/json' }
  const volume = JSON.stringify({ name: 'empty-bodies', size_gb: 1 })
  const [created] = await ask('POST', '/volumes', { ...json, 'content-length': String(volume.length) }, volume)
  assert.equal(created, 201)
  const [standby, text] = await ask('POST', `/instances/${id}/standby`, { ...json, 'content-length': '0' })
  assert.deepEqual([standby, (JSON.parse(text) as { state: string }).state], [200, 'Standby'])
  assert.equal((await ask('POST', `/instances/${id}/restore`, { ...json, 'content-length': '0' }))[0], 200)
  assert.deepEqual(await ask('DELETE', '/volumes/empty-bodies', { ...json, accept: '*/*' }), [204, ''])
})

test('a client that never ends the input of a command and leaves without a good-bye gets output and exit code', async () => {
  const socket = await begin('/instances/guest/exec', { command: ['/bin/sh', '-c', 'read line; echo "got $line"; exit 7'], tty: false })
  socket.send(Buffer.from('one\n'))
  const { output, texts } = await untilText(socket)
  socket.terminate()
  assert.deepEqual([output, texts], ['got one\n', ['{"exitCode":7}']])
})

test('a client that sends all input in one message before it reads, and takes no text but the exit code, gets both', async () => {
  // The Python library's way, of any size.
  const input = Buffer.alloc(24 * 1024 ** 2, 'x')
  const socket = await begin('/instances/guest/exec', {
    ...{ command: ['/bin/sh', '-c', `head -c ${input.length} | wc -c`], tty: false, env: { A: 'b' }, cwd: '/' },
    ...{ timeout: 60, wait_for_agent: 5 },
  })
  await new Promise((resolve) => socket.send(input, resolve))
  const closed = once(socket, 'close')
  const { output, texts } = await untilText(socket)
  socket.close()
  assert.deepEqual([output.trim(), texts], [String(input.length), ['{"exitCode":0}']])
  assert.equal((await closed)[0], 1000)
})

test('a client that sends the sizes of its terminal right after the first frame has the last one', async () => {
  const socket = await begin('/instances/guest/exec', { command: ['/bin/sh', '-c', 'read go; stty size'], tty: true, rows: 10, cols: 20 })
  for (const [rows, cols] of [
    [30, 90],
    [31, 91],
  ])
    socket.send(JSON.stringify({ resize: { rows, cols } }))
  socket.send(Buffer.from('go\n'))
  const { output } = await untilText(socket)
  socket.terminate()
  assert.match(output, /31 91/)
})

/** Sends one file or directory and returns the server's answer. */
async function copyIn(first: object, content: Buffer | undefined): Promise<unknown> {
  const socket = await begin(`/instances/${id}/cp`, { direction: 'to', ...first })
  for (let at = 0; content !== undefined && at < content.length; at += 32 * 1024) socket.send(content.subarray(at, at + 32 * 1024))
  socket.send('{"type":"end"}')
  const { texts } = await untilText(socket)
  socket.terminate()
  return JSON.parse(texts[0] ?? '')
}

test('a client that copies a tree in makes one connection for each entry, and reads how many bytes were written', async () => {
  const content = Buffer.alloc(100_000, '{"a":1}')
  assert.deepEqual(await copyIn({ guest_path: '/root/in', is_dir: true, mode: 0o750, uid: 0, gid: 0 }, undefined), {
    ...{ type: 'result', success: true, bytes_written: 0 },
  })
  assert.deepEqual(await copyIn({ guest_path: '/root/in/file', mode: 0o640, uid: 1000, gid: 100 }, content), {
    ...{ type: 'result', success: true, bytes_written: content.length },
  })
  // Without `is_dir`, and with the type of the file in its mode, as a tar archive has it.
  assert.deepEqual(await copyIn({ guest_path: '/root/in/empty', mode: 0o100600 }, Buffer.alloc(0)), {
    ...{ type: 'result', success: true, bytes_written: 0 },
  })
  assert.equal(
    await shell(server, id, "cd /root/in && stat -c '%a %u:%g %s %n' . file empty"),
    `750 0:0 ${await shell(server, id, 'stat -c %s /root/in')} .\n640 1000:100 100000 file\n600 0:0 0 empty`,
  )
  assert.partialDeepStrictEqual(await copyIn({ guest_path: '/root/in' }, content), { type: 'result', success: false })
})

test('a client that checks every field of what is copied out, and leaves right after the last entry, gets the whole tree', async () => {
  await shell(
    server,
    id,
    [
      'mkdir -p /root/out/sub && cd /root/out && printf %s \'{"a":1}\' > small.json && head -c 70000 /dev/zero > zeros && : > empty',
      'touch -d "1960-01-01 00:00:00" old && ln -s ../zeros sub/link && ln -s /etc/passwd sub/outside',
      'chmod 600 zeros; chmod 4755 small.json; chmod 1777 sub',
    ].join('; '),
  )
  const socket = await begin(`/instances/${id}/cp`, { direction: 'from', guest_path: '/root/out', follow_links: false })
  const entries = await readStrictly(socket)
  socket.terminate()
  const found = Object.fromEntries(entries.map(({ path, ...entry }) => [path, entry]))
  assert.deepEqual(Object.keys(found).toSorted(), [
    ...['out', 'out/empty', 'out/old', 'out/small.json', 'out/sub', 'out/sub/link', 'out/zeros'],
  ])
  assert.deepEqual([found['out/small.json']?.content.toString(), found['out/zeros']?.content.length], ['{"a":1}', 70_000])
  const { kind, link } = found['out/sub/link'] as Copied
  assert.deepEqual([kind, link], ['link', '../zeros'])
  assert.deepEqual([found['out/zeros']?.mode, found['out/small.json']?.mode, found['out/sub']?.mode], [0o600, 0o755, 0o777])
})

test('a client that asks what is at a path before it copies is told what is not there', async () => {
  const [status, text] = await ask('GET', `/instances/${id}/stat?follow_links=true&path=%2Froot%2Fnothing`)
  assert.deepEqual([status, JSON.parse(text)], [200, { exists: false }])
})

test('a client that takes each empty line for an event follows a log through its silence', async () => {
  const stop = new AbortController()
  // The answer begins when something was said, or when nothing was for a while.
  const { body } = await fetch(`${server.url}/instances/${id}/logs?follow=true&tail=0`, {
    headers: { accept: 'text/event-stream', authorization: `Bearer ${server.token}` },
    signal: stop.signal,
  })
  assert.ok(body !== null)
  // Read from now on: fetch ends an answer that nobody reads as soon as it is collected.
  const first = readEveryEmptyLine(body).next()
  await shell(server, id, 'echo said after a while > /tmp/say')
  assert.deepEqual((await first).value, '"said after a while"')
  stop.abort()
})

for (const signIn of ['at once', 'when asked'] as const)
  test(`a client that signs in ${signIn} pushes an image, waits until it is ready, and pushes nothing the second time`, async () => {
    const name = `pushed-${signIn.replaceAll(' ', '-')}`
    const image = dockerImage([{ path: 'file', content: signIn }], { Cmd: ['/bin/true'] })
    const push = (): Promise<readonly string[]> => pushUnlessThere(server, { repository: name, tag: '1' }, image, signIn)
    assert.equal((await push()).length, 3)
    await until('the image is ready', async () => {
      const [status, text] = await ask('GET', `/images/${encodeURIComponent(encodeURIComponent(`${name}:1`))}`)
      return status === 200 && (JSON.parse(text) as { status: string }).status === 'ready'
    })
    assert.deepEqual(await push(), [])
  })

test('a client that tries TLS first is told at once that there is none', async () => {
  const { hostname, port } = new URL(server.url)
  const socket = tls.connect({ host: hostname, port: Number(port), timeout: 5_000 })
  const [error] = (await once(socket, 'error')) as unknown as [NodeJS.ErrnoException]
  assert.equal(error.code, 'ERR_SSL_WRONG_VERSION_NUMBER')
})
