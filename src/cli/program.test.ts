// How command lines are understood, printed and ended, against a server that only answers.

import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { run } from '../../tests/support/command.ts'
import { fakeInstance, startFakeServer, untilGone } from '../../tests/support/fake-server.ts'
import { hypeman, startHypeman } from '../../tests/support/fake-terminal.ts'
import { until } from '../../tests/support/until.ts'

const web = fakeInstance('web')

test('global options count before and after the command', async () => {
  await using server = await startFakeServer()
  server.on('GET /instances', { json: [web] })
  const before = await hypeman('http://127.0.0.1:1', ['--base-url', server.url, '--format', 'json', 'ps'])
  const after = await hypeman('http://127.0.0.1:1', ['ps', '--format', 'json', '--base-url', server.url])
  assert.deepEqual(JSON.parse(before.stdout), [web])
  assert.equal(before.stdout, after.stdout)
})

test('wrong use ends with 2 and a suggestion, a failure with 1 and what to do, help and version with 0', async () => {
  await using server = await startFakeServer()
  const typo = await hypeman(server.url, ['insepct', 'web'])
  assert.equal(typo.code, 2)
  assert.match(typo.stderr, /unknown command 'insepct'\n\(Did you mean inspect\?\)/)
  assert.equal((await hypeman(server.url, ['logs', '--tial', '3', 'web'])).code, 2)
  assert.equal((await hypeman(server.url, ['ps', '--state', 'Sleeping'])).code, 2)
  const missing = await hypeman(server.url, ['inspect', 'nope'])
  assert.equal(missing.code, 1)
  assert.match(missing.stderr, /^Error: there is no \/instances\/nope; look at the list\n$/)
  const unreachable = await hypeman('http://127.0.0.1:1', ['ps'])
  assert.equal(unreachable.code, 1)
  assert.match(unreachable.stderr, /no server answers at http:\/\/127\.0\.0\.1:1: .*\nStart one with hypeman serve/)
  assert.equal((await hypeman(server.url, ['--help'])).code, 0)
  assert.match((await hypeman(server.url, ['run', '--help'])).stdout, /Examples:/)
  assert.match((await hypeman(server.url, ['help', 'snapshot'])).stdout, /Usage: hypeman snapshot/)
  assert.equal((await hypeman(server.url, ['help', 'snapshot'])).code, 0)
  assert.equal((await hypeman(server.url, [])).code, 2)
  assert.match((await hypeman(server.url, ['--version'])).stdout, /^\d+\.\d+\.\d+\n$/)
})

test('what a server can not read is listed with where it lies and what to do', async () => {
  await using server = await startFakeServer()
  const reason = '/data/instances/abc/record.json is empty; put a good copy back and restart the server, or delete it'
  const damaged = { kind: 'instance', id: 'abc', path: '/data/instances/abc', reason, newer: false, created_at: '2026-01-02T03:04:05.678Z' }
  server.on('GET /unreadable', { json: [damaged] })
  const { code, stdout } = await hypeman(server.url, ['unreadable'])
  assert.equal(code, 0)
  assert.match(stdout, /^KIND +ID +REASON\ninstance +abc +\/data\/instances\/abc\/record\.json is empty; put/)
  assert.deepEqual(JSON.parse((await hypeman(server.url, ['unreadable', '--format', 'json'])).stdout), [damaged])
})

test('without a token, a server on this host is shown one that is made from its secret', async () => {
  await using server = await startFakeServer()
  server.on('GET /instances', { json: [] })
  const home = await mkdtemp(path.join(os.tmpdir(), 'cli-home-'))
  await using _home = { [Symbol.asyncDispose]: () => rm(home, { recursive: true }) }
  await writeFile(path.join(home, 'jwt-secret'), 'a secret for a test\n')
  await hypeman(server.url, ['ps'], { env: { HYPEMAN_API_KEY: '', DATA_DIR: home } })
  assert.match(String(server.requests[0]?.headers.authorization), /^Bearer ey[\w-]+\.ey[\w-]+\.[\w-]+$/)
})

test('the settings file gives what neither flags nor environment say', async () => {
  await using server = await startFakeServer()
  server.on('GET /instances', { json: [] })
  const home = await mkdtemp(path.join(os.tmpdir(), 'cli-home-'))
  await using _home = { [Symbol.asyncDispose]: () => rm(home, { recursive: true }) }
  await mkdir(path.join(home, '.config/hypeman'), { recursive: true })
  await writeFile(path.join(home, '.config/hypeman/cli.yaml'), `base_url: ${server.url}\napi_key: from-file\n`)
  const { code } = await hypeman('', ['ps'], { env: { HYPEMAN_API_KEY: '' }, home })
  assert.equal(code, 0)
  assert.equal(server.requests[0]?.headers.authorization, 'Bearer from-file')
})

test('ps shows what is up, ps -a all, ps -q ids; filters go to the server', async () => {
  await using server = await startFakeServer()
  server.on('GET /instances', { json: [web, fakeInstance('old', { state: 'Stopped', exit_code: 3 })] })
  const up = await hypeman(server.url, ['ps'])
  assert.match(up.stdout, /^INSTANCE ID +NAME +IMAGE +STATE/)
  assert.match(up.stdout, /idweb0+ +web +alpine:3\.20 +Running/)
  assert.doesNotMatch(up.stdout, /old/)
  assert.match((await hypeman(server.url, ['ps', '-a'])).stdout, /old.*Stopped \(3\)/)
  assert.equal((await hypeman(server.url, ['ps', '-q', '--tag', 'team=web', '--tag', 'env=x'])).stdout, `${String(web['id'])}\n`)
  assert.equal(server.requests.at(-1)?.query.get('tags[team]'), 'web')
  assert.equal(server.requests.at(-1)?.query.get('tags[env]'), 'x')
})

test('inspect hides the values of the environment unless asked', async () => {
  await using server = await startFakeServer()
  server.on('GET /instances/web', { json: { ...web, env: { TOKEN: 'secret' } } })
  assert.doesNotMatch((await hypeman(server.url, ['inspect', 'web'])).stdout, /secret/)
  assert.match((await hypeman(server.url, ['inspect', '--show-env', '--format', 'yaml', 'web'])).stdout, /TOKEN: secret/)
})

test('logs print lines as they come and end with the interrupt', async () => {
  await using server = await startFakeServer()
  server.on('GET /instances/web/logs', (request) => ({ events: untilGone(request, ['one', 'two "quoted"']) }))
  const running = startHypeman(server.url, ['logs', '-f', '--tail', '7', 'web'])
  await until('both lines are printed', () => running.stdout() === 'one\ntwo "quoted"\n')
  running.interrupt()
  const { code, stderr } = await running.ended
  assert.deepEqual([code, stderr], [130, ''])
  assert.equal(server.requests[0]?.query.get('tail'), '7')
})

test('several instances are acted on although one fails, and the outcome tells', async () => {
  await using server = await startFakeServer()
  server.on('POST /instances/web/stop', { json: fakeInstance('web', { state: 'Stopped' }) })
  server.on('POST /instances/db/stop', { status: 409, json: { code: 'invalid_state', message: 'db is not running' } })
  server.on('POST /instances/app/stop', { json: fakeInstance('app', { state: 'Stopped' }) })
  const { code, stdout, stderr } = await hypeman(server.url, ['stop', 'web', 'db', 'app'])
  assert.deepEqual([code, stdout], [1, 'web\napp\n'])
  assert.match(stderr, /Error: db is not running\nBring the instance into a state that allows this and try again\./)
})

test('rm refuses what runs without a terminal to ask at, and deletes it with --force', async () => {
  await using server = await startFakeServer()
  server.on('GET /instances/web', { json: web })
  server.on('DELETE /instances/web', {})
  const refused = await hypeman(server.url, ['rm', 'web'])
  assert.deepEqual([refused.code, refused.stdout], [1, ''])
  assert.match(refused.stderr, /web is Running and was not deleted; stop it first, or give --force/)
  const forced = await hypeman(server.url, ['rm', '-f', 'web', 'gone'])
  assert.deepEqual([forced.code, forced.stdout], [0, 'web\n'])
})

test('wait ends with 0 in the state and with 1 when it can not come', async () => {
  await using server = await startFakeServer()
  server.on('GET /instances/web/wait', { json: { state: 'Stopped', timed_out: false } })
  assert.deepEqual((await hypeman(server.url, ['wait', 'web', '--state', 'Stopped'])).code, 0)
  const other = await hypeman(server.url, ['wait', 'web', '--state', 'Running', '--timeout', '2s'])
  assert.deepEqual([other.code, other.stdout], [1, 'Stopped\n'])
  assert.match(other.stderr, /web did not become Running and will not become so by itself: it is Stopped/)
})

test('update expiration sends what was given, and wants one of both', async () => {
  await using server = await startFakeServer()
  server.on('PATCH /instances/web', { json: web })
  const { stdout } = await hypeman(server.url, ['update', 'expiration', 'web', '--ttl', '0s'])
  assert.equal(stdout, 'web stays\n')
  assert.deepEqual(server.requests[0]?.body, { ttl: '0s' })
  assert.equal((await hypeman(server.url, ['update', 'expiration', 'web'])).code, 2)
})

test('a volume is filled from an archive at standard input', async () => {
  await using server = await startFakeServer()
  server.on('POST /volumes/from-archive', { status: 201, json: { id: 'vol1', name: 'data', size_gb: 2, created_at: '' } })
  const { code, stdout } = await hypeman(server.url, ['volume', 'create', '--name', 'data', '--size', '2', '--from-archive', '-'], {
    input: 'bytes',
  })
  assert.deepEqual([code, stdout], [0, 'vol1\n'])
  assert.equal(String(server.requests[0]?.body), 'bytes')
  assert.equal(server.requests[0]?.query.get('size_gb'), '2')
})

test('a volume is attached and detached by its name, and the instance is named', async () => {
  await using server = await startFakeServer()
  server.on('POST /instances/web/volumes/data', { json: web })
  server.on('DELETE /instances/web/volumes/data', { json: web })
  const attached = await hypeman(server.url, ['volume', 'attach', 'data', '-i', 'web', '--mount-path', '/srv', '--readonly'])
  assert.deepEqual([attached.code, attached.stdout], [0, 'web\n'])
  assert.deepEqual(server.requests[0]?.body, { mount_path: '/srv', readonly: true })
  assert.equal((await hypeman(server.url, ['volume', 'detach', 'data', '--instance', 'web'])).stdout, 'web\n')
  assert.equal((await hypeman(server.url, ['volume', 'attach', 'data', '-i', 'web'])).code, 2)
  const layered = ['volume', 'attach', 'data', '-i', 'web', '--mount-path', '/srv', '--overlay', '2GB']
  assert.equal((await hypeman(server.url, layered)).code, 0)
  assert.deepEqual(server.requests.at(-1)?.body, { mount_path: '/srv', readonly: true, overlay: true, overlay_size: '2GB' })
})

test('a snapshot is found by its name under its instance', async () => {
  await using server = await startFakeServer()
  const named = (id: string, instance: string): object => ({
    id,
    name: 'before',
    kind: 'Standby',
    source_instance_id: `id-${instance}`,
    source_instance_name: instance,
  })
  server.on('GET /snapshots', { json: [named('snap1', 'db'), named('snap2', 'web')] })
  server.on('POST /instances/web/snapshots/snap2/restore', { json: web })
  assert.equal((await hypeman(server.url, ['snapshot', 'restore', 'web', 'before'])).code, 0)
  const ambiguous = await hypeman(server.url, ['snapshot', 'delete', 'before'])
  assert.equal(ambiguous.code, 1)
  assert.match(ambiguous.stderr, /2 snapshots are named before: give an id instead \(snap1 of db, snap2 of web\)/)
})

test('a start is light: a command loads neither schemas nor server nor what only other commands need', async () => {
  const tell = `import { registerHooks } from 'node:module'
registerHooks({ load(url, context, next) { process.stdout.write(url + '\\n'); return next(url, context) } })`
  const preload = `data:text/javascript,${encodeURIComponent(tell)}`
  const main = path.join(import.meta.dirname, '../main.ts')
  const { stdout } = await run(process.execPath, ['--import', preload, main, '--base-url', 'http://127.0.0.1:9', 'ps'])
  const loaded = stdout.split('\n').filter((url) => url.startsWith('file:'))
  assert.ok(loaded.some((url) => url.endsWith('/src/cli/commands/ps.ts')))
  assert.deepEqual(
    loaded.filter((url) => /compose|schemas|node_modules\/(?!commander\/)|commands\/(?!ps\.ts)/.test(url)),
    [],
  )
})

test('a reader that has seen enough ends the command without noise', async () => {
  await using server = await startFakeServer()
  server.on('GET /instances/web/logs', (request) => ({ events: forever(request.gone) }))
  const script = `${process.execPath} ${path.join(import.meta.dirname, '../main.ts')} --base-url ${server.url} logs -f web | head -n 2; echo "\${PIPESTATUS[0]}"`
  const { stdout, stderr } = await run('bash', ['-c', script])
  assert.deepEqual([stdout, stderr], ['line\nline\n141\n', ''])
})

async function* forever(gone: AbortSignal): AsyncGenerator<string> {
  while (!gone.aborted) {
    yield 'line'
    await new Promise(setImmediate)
  }
}
