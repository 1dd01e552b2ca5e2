// hypeman run and pull: what is asked of the server, what is printed, and what is left when they are cut off.

import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { fakeInstance, startFakeServer, untilGone, type FakeServer } from '../../tests/support/fake-server.ts'
import { hypeman, startHypeman } from '../../tests/support/fake-terminal.ts'
import { until } from '../../tests/support/until.ts'

const IMAGE = 'docker.io/library/alpine:3.20'
const image = (status: string): object => ({ name: IMAGE, digest: 'sha256:00', status, created_at: '2026-01-01T00:00:00Z' })

test('run asks for what the flags say, waits until it runs and prints the id', async () => {
  await using server = await startFakeServer()
  const directory = await mkdtemp(path.join(os.tmpdir(), 'cli-run-'))
  await using _directory = { [Symbol.asyncDispose]: () => rm(directory, { recursive: true }) }
  const envFile = path.join(directory, 'app.env')
  await writeFile(envFile, '# settings\nA=1\nFROM_HERE\n\nB=x=y\n')
  readyToRun(server)
  const words = ['run', '--name', 'web', '-e', 'C=3', '--env-file', envFile, '-v', 'data:/data:ro', '-p', '0.0.0.0:8080:80', '-p', '53/udp']
  const flags = [
    '--memory',
    '512MB',
    '--cpus',
    '1',
    '--overlay-size',
    '2GB',
    '--disk-io',
    '50MB/s',
    ...['--bandwidth-down', '100Mbps', '--bandwidth-up', '2MB/s'],
    ...['--network-egress-enabled', '--network-egress-mode', 'http_https_only'],
    '--hypervisor',
    'qemu',
    '--tag',
    'team=a',
    '--ttl',
    '1h',
  ]
  const { code, stdout } = await hypeman(server.url, [...words, ...flags, 'alpine:3.20', 'sleep', '-x', '60'], {
    env: { FROM_HERE: 'here' },
  })
  assert.deepEqual([code, stdout], [0, `${String(fakeInstance('web')['id'])}\n`])
  assert.deepEqual(sent(server, 'POST /instances'), {
    name: 'web',
    image: 'alpine:3.20',
    size: '512MB',
    overlay_size: '2GB',
    vcpus: 1,
    disk_io_bps: '50MB/s',
    env: { A: '1', FROM_HERE: 'here', B: 'x=y', C: '3' },
    tags: { team: 'a' },
    cmd: ['sleep', '-x', '60'],
    hypervisor: 'qemu',
    network: {
      enabled: true,
      ports: [
        { guest_port: 80, host_port: 8080, protocol: 'tcp', host_address: '0.0.0.0' },
        { guest_port: 53, host_port: 0, protocol: 'udp' },
      ],
      bandwidth_download: '100Mbps',
      bandwidth_upload: '2MB/s',
      egress: { enabled: true, enforcement: { mode: 'http_https_only' } },
    },
    volumes: [{ volume_id: 'data', mount_path: '/data', readonly: true }],
    ttl: '1h',
  })
})

test('without a name one is made up of the image, and told', async () => {
  await using server = await startFakeServer()
  readyToRun(server)
  const { stderr } = await hypeman(server.url, ['run', 'alpine:3.20'])
  assert.match(stderr, /^alpine-[a-z0-9]{5} runs$/m)
  assert.match(String((sent(server, 'POST /instances') as { readonly name: string }).name), /^alpine-[a-z0-9]{5}$/)
})

test('an option behind the image is a mistake, unless -- says that the command begins there', async () => {
  await using server = await startFakeServer()
  readyToRun(server)
  const { code, stderr } = await hypeman(server.url, ['run', 'alpine:3.20', '--name', 'web'])
  assert.equal(code, 2)
  assert.match(stderr, /'--name' comes after the first argument.*options go before it/)
  assert.equal((await hypeman(server.url, ['run', 'alpine:3.20', '--', '-c'])).code, 0)
  assert.deepEqual((sent(server, 'POST /instances') as { readonly cmd: unknown }).cmd, ['-c'])
})

test('an image that the server lacks is pulled first, with credentials that are not shown on the command line', async () => {
  await using server = await startFakeServer()
  let asked = 0
  readyToRun(server)
  server.on('GET /images/alpine:3.20', { status: 404, json: { code: 'not_found', message: 'no image' } })
  server.on('POST /images', { status: 202, json: image('pulling') })
  server.on('GET /images/events', (request) => ({
    events: untilGone(request, [{ name: IMAGE, status: 'pulling', message: '', done_bytes: 1024, total_bytes: 4096 }]),
  }))
  server.on(`GET /images/${IMAGE}`, () => ({ json: image((asked += 1) > 1 ? 'ready' : 'converting') }))
  const { code } = await hypeman(server.url, ['run', '-d', '--username', 'me', '--password-stdin', 'alpine:3.20'], { input: 'secret\n' })
  assert.equal(code, 0)
  assert.equal(asked, 2)
  assert.deepEqual(sent(server, 'POST /images'), { name: 'alpine:3.20', credentials: { username: 'me', password: 'secret' } })
})

test('an interrupted pull takes back what it began', async () => {
  await using server = await startFakeServer()
  server.on('POST /images', { status: 202, json: image('pulling') })
  server.on(`GET /images/${IMAGE}`, { json: image('pulling') })
  server.on(`DELETE /images/${IMAGE}`, {})
  const running = startHypeman(server.url, ['pull', 'alpine:3.20'])
  await until('the pull is under way', () => server.requests.some((request) => request.path.includes(IMAGE)))
  running.interrupt()
  assert.equal((await running.ended).code, 130)
  assert.ok(server.requests.some(({ method }) => method === 'DELETE'))
})

test('run --rm shows all output, even what comes after the stream was left, ends with the exit code and deletes the instance', async () => {
  await using server = await startFakeServer()
  readyToRun(server)
  const logs = ['one', 'two', 'last words']
  const id = String(fakeInstance('web')['id'])
  server.on(`GET /instances/${id}/logs`, (request) => ({
    events: request.query.get('follow') === 'true' ? untilGone(request, logs.slice(0, 2)) : toEvents(logs),
  }))
  server.on(`GET /instances/${id}/wait`, { json: { state: 'Stopped', timed_out: false } })
  server.on(`GET /instances/${id}`, { json: fakeInstance('web', { state: 'Stopped', exit_code: 7 }) })
  server.on(`DELETE /instances/${id}`, {})
  const { code, stdout } = await hypeman(server.url, ['run', '--rm', '--name', 'web', 'alpine:3.20', 'job'])
  assert.deepEqual([code, stdout], [7, 'one\ntwo\nlast words\n'])
  assert.ok(server.requests.some(({ method }) => method === 'DELETE'))
})

test('run --attach ends with the exit code of a program that was over before it was seen to run, and shows why', async () => {
  await using server = await startFakeServer()
  readyToRun(server)
  const id = String(fakeInstance('web')['id'])
  server.on('POST /instances', { status: 201, json: fakeInstance('web', { state: 'Initializing' }) })
  server.on(`GET /instances/${id}/logs`, { events: toEvents(['hypeman: nosuch: not found']) })
  server.on(`GET /instances/${id}/wait`, { json: { state: 'Stopped', timed_out: false } })
  server.on(`GET /instances/${id}`, { json: fakeInstance('web', { state: 'Stopped', exit_code: 127, exit_message: 'nosuch: not found' }) })
  const { code, stdout } = await hypeman(server.url, ['run', '--attach', '--name', 'web', 'alpine:3.20', 'nosuch'])
  assert.deepEqual([code, stdout], [127, 'hypeman: nosuch: not found\n'])
})

test('an interrupt during run names what goes on, and with --rm deletes it', async () => {
  for (const remove of [false, true]) {
    await using server = await startFakeServer()
    readyToRun(server)
    const id = String(fakeInstance('web')['id'])
    server.on('POST /instances', { status: 201, json: fakeInstance('web', { state: 'Initializing' }) })
    server.on(`GET /instances/${id}/wait`, (request) => ({ events: untilGone(request) }))
    server.on(`DELETE /instances/${id}`, {})
    const running = startHypeman(server.url, ['run', ...(remove ? ['--rm'] : []), '--name', 'web', 'alpine:3.20'])
    await until('it waits', () => server.requests.some((request) => request.path.endsWith('/wait')))
    running.interrupt()
    const { code, stderr } = await running.ended
    assert.equal(code, 130)
    assert.equal(
      server.requests.some(({ method }) => method === 'DELETE'),
      remove,
    )
    assert.equal(stderr.includes('web goes on: hypeman rm --force web deletes it'), !remove)
  }
})

test('an instance that does not stay up is a failure that says why and where to look', async () => {
  await using server = await startFakeServer()
  readyToRun(server)
  const id = String(fakeInstance('web')['id'])
  server.on('POST /instances', { status: 201, json: fakeInstance('web', { state: 'Initializing' }) })
  server.on(`GET /instances/${id}/wait`, { json: { state: 'Stopped', timed_out: false } })
  server.on(`GET /instances/${id}`, { json: fakeInstance('web', { state: 'Stopped', exit_code: 127, exit_message: 'nosuch: not found' }) })
  const { code, stderr } = await hypeman(server.url, ['run', '--name', 'web', 'alpine:3.20', 'nosuch'])
  assert.equal(code, 1)
  assert.match(stderr, /Error: web did not stay up: nosuch: not found; see hypeman logs web/)
})

test('many forks are made a few at a time; one that fails does not keep the others from being made', async () => {
  await using server = await startFakeServer()
  let [underway, most] = [0, 0]
  server.on('GET /snapshots', { json: [] })
  server.on('POST /snapshots/snap/fork', async (request) => {
    const { name } = request.body as { readonly name: string }
    most = Math.max(most, (underway += 1))
    await new Promise(setImmediate)
    underway -= 1
    if (name === 'w-3') return { status: 409, json: { code: 'name_conflict', message: 'w-3 is taken' } }
    return { status: 201, json: fakeInstance(name) }
  })
  const words = ['snapshot', 'fork', 'snap', '--count', '6', '--name-prefix', 'w', '--parallel', '2']
  const { code, stdout, stderr } = await hypeman(server.url, words)
  assert.equal(code, 1)
  assert.equal(stdout.trim().split('\n').length, 5)
  assert.match(stderr, /w-3: Error: w-3 is taken/)
  assert.ok(most <= 2)
})

function readyToRun(server: FakeServer): void {
  server.on('GET /images/alpine:3.20', { json: image('ready') })
  server.on('POST /instances', (request) => ({ status: 201, json: fakeInstance((request.body as { readonly name: string }).name) }))
}

function sent(server: FakeServer, route: string): unknown {
  return server.requests.findLast((request) => `${request.method} ${request.path}` === route)?.body
}

async function* toEvents(lines: readonly string[]): AsyncGenerator<string> {
  yield* lines
}
