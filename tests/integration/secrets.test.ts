// Secret variables and files on a real machine: who has them in a fork, that no record, log, answer, trace or process of the host shows them, and what becomes of them when the
// server's key is replaced.

import assert from 'node:assert/strict'
import { readdir, readFile, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { inspect } from 'node:util'
import { dataLayout } from '../../src/files/layout.ts'
import { signToken } from '../../src/platform/token.ts'
import { hypeman } from '../support/fake-terminal.ts'
import { runIn, shell, small, untilRunning } from '../support/machine.ts'
import { startOtlpReceiver } from '../support/otlp-receiver.ts'
import { startServer } from '../support/server.ts'
import { countVm } from '../support/vm-count.ts'

const planted = 'planted;7f3a91c2-not-to-be-seen'
const plantedToo = "planted 'too' 55d1e0"
const plantedFile = 'planted-in-a-file 83be7f\nand "its" second\\line\n'
const plantedFileToo = 'planted-in-another c20d4e\n'
const plain = { PLAIN: 'in the open' }

const collector = await startOtlpReceiver()
after(() => collector[Symbol.asyncDispose]())
const tracing = { LOG_LEVEL: 'trace', OTEL_EXPORTER_OTLP_ENDPOINT: collector.url, OTEL_BSP_SCHEDULE_DELAY: '50' }
const server = await startServer(tracing)
after(() => server[Symbol.asyncDispose]())
const layout = dataLayout(server.dataDirectory)

/** Everything that the server has answered. */
const answers: string[] = []

interface Answer {
  readonly status: number
  readonly json: Readonly<Record<string, unknown>>
}

async function ask(method: string, at: string, body?: unknown, subject = 'tests'): Promise<Answer> {
  const key = (await readFile(layout.secret, 'utf8')).trim()
  const answer = await fetch(`${server.url}${at}`, {
    method,
    headers: { authorization: `Bearer ${signToken(key, { subject, ttlSeconds: 600 })}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  })
  const text = await answer.text()
  answers.push(text)
  return { status: answer.status, json: text.startsWith('{') ? (JSON.parse(text) as Answer['json']) : {} }
}

async function made(at: string, body: unknown, subject?: string): Promise<string> {
  const { status, json } = await ask('POST', at, body, subject)
  assert.equal(status, 201, JSON.stringify(json))
  return String(json['id'])
}

const names = async (): Promise<string[]> => (await server.client.instances.list()).map(({ name }) => name).toSorted()
/** One of the machine's variables as a program that exec starts sees it. */
const variable = (id: string, name: string): Promise<string> => shell(server, id, `printf %s "$${name}"`)
const textOf = async (id: string, file: string): Promise<string> => (await shell(server, id, `cat ${file} && printf .`)).slice(0, -1)
const secretFile = (id: string, name: string): Promise<string> => textOf(id, `/run/secrets/${name}`)

let origin = ''
let warm = ''
before(async () => {
  origin = await made('/instances', {
    ...small,
    name: 'origin',
    env: plain,
    secret_env: { TOKEN: planted },
    secret_files: { 'tls.key': plantedFile },
  })
  await untilRunning(server, origin)
  await shell(
    server,
    origin,
    `mkdir -p /etc/hypeman/fork.d
     printf '#!/bin/sh\\nprintf "%%s" "$TENANT" >/run/hook; cat /run/secrets/tls.key >/run/hook-file\\n' >/etc/hypeman/fork.d/10-note
     chmod +x /etc/hypeman/fork.d/10-note
     sleep 100000 >/dev/null 2>&1 </dev/null &`,
  )
  warm = await made(`/instances/${origin}/snapshots`, { kind: 'Standby', name: 'warm' })
})

test('a program has its secrets, and the instance shows their names alone', async () => {
  assert.equal(await variable(origin, 'TOKEN'), planted)
  const { json } = await ask('GET', `/instances/${origin}`)
  assert.deepEqual([json['env'], json['secret_env_names'], json['owner'], json['secret_env']], [plain, ['TOKEN'], 'tests', undefined])
  assert.deepEqual(json['secret_files'], ['tls.key'])
  await ask('GET', '/instances')
  assert.equal((await ask('GET', `/snapshots/${warm}`)).json['owner'], 'tests')
})

test('its secret files are in memory, for root alone, as they were given, also after a standby', async () => {
  const look = async (): Promise<void> => {
    assert.equal(await secretFile(origin, 'tls.key'), plantedFile)
    assert.equal(await shell(server, origin, "stat -c '%a %U %G' /run/secrets /run/secrets/tls.key"), '700 root root\n400 root root')
    assert.equal(await shell(server, origin, 'stat -f -c %T /run/secrets'), 'tmpfs')
    assert.equal(await shell(server, origin, 'ls -A /run/secrets'), 'tls.key')
  }
  await look()
  assert.equal((await ask('POST', `/instances/${origin}/standby`, {})).status, 200)
  assert.equal((await ask('POST', `/instances/${origin}/restore`, {})).status, 200)
  await look()
})

test("a fork of the owner's has them, and what it is given besides: in exec, in hooks, in a file of root's, and at its next start", async () => {
  const files = { 'tls.key': plantedFileToo, 'more.key': '' }
  const given = { name: 'own', env: { TENANT: '7' }, secret_env: { TENANT_KEY: plantedToo }, secret_files: files }
  const id = await made(`/snapshots/${warm}/fork`, given)
  countVm('fork')
  assert.deepEqual(
    [await variable(id, 'TOKEN'), await variable(id, 'TENANT'), await variable(id, 'TENANT_KEY')],
    [planted, '7', plantedToo],
  )
  assert.equal(await shell(server, id, 'cat /run/hook'), '7')
  assert.equal(await textOf(id, '/run/hook-file'), plantedFileToo, 'it was there before hooks ran')
  assert.deepEqual([await secretFile(id, 'tls.key'), await secretFile(id, 'more.key')], [plantedFileToo, ''])
  assert.equal(await shell(server, id, "stat -c '%a %U' /run/hypeman/env"), '600 root')
  assert.equal(await shell(server, id, `env -i sh -c '. /run/hypeman/env; printf %s "$TENANT_KEY"'`), plantedToo)
  const running = await shell(
    server,
    id,
    'pidof sleep >/dev/null && for pid in $(pidof sleep); do tr "\\0" "\\n" </proc/$pid/environ; done',
  )
  assert.match(running, /^PLAIN=in the open$/m)
  assert.doesNotMatch(running, /TENANT/, 'a program that goes on keeps what it was started with')
  await ask('POST', `/instances/${id}/stop`)
  await ask('POST', `/instances/${id}/start`, {})
  await untilRunning(server, id)
  assert.deepEqual(
    [await variable(id, 'TOKEN'), await variable(id, 'TENANT'), await variable(id, 'TENANT_KEY')],
    [planted, '7', plantedToo],
  )
  assert.deepEqual([await secretFile(id, 'tls.key'), await secretFile(id, 'more.key')], [plantedFileToo, ''])
  const { json } = await ask('GET', `/instances/${id}`)
  assert.deepEqual(
    [json['secret_env_names'], json['secret_files']],
    [
      ['TENANT_KEY', 'TOKEN'],
      ['more.key', 'tls.key'],
    ],
  )
  await ask('DELETE', `/instances/${id}`)
})

test('somebody else gets no fork with the memory that holds them, and one from the disks without them', async () => {
  for (const [at, body] of [
    [`/snapshots/${warm}/fork`, {}],
    [`/snapshots/${warm}/fork`, { target_state: 'Standby' }],
    [`/instances/${origin}/fork`, { from_running: true }],
  ] as const) {
    const refused = await ask('POST', at, { name: 'theirs', ...body }, 'mallory')
    assert.deepEqual([refused.status, refused.json['code']], [403, 'forbidden'])
    assert.match(String(refused.json['message']), /TOKEN, the file tls\.key of tests.*target_state Stopped/)
  }
  assert.deepEqual(await names(), ['origin'])
  const id = await made(
    `/snapshots/${warm}/fork`,
    { name: 'theirs', target_state: 'Stopped', secret_env: { TOKEN: plantedToo } },
    'mallory',
  )
  const { json } = await ask('GET', `/instances/${id}`)
  assert.deepEqual([json['env'], json['secret_env_names'], json['owner']], [plain, ['TOKEN'], 'mallory'])
  assert.equal(json['secret_files'], undefined)
  await ask('POST', `/instances/${id}/start`, {}, 'mallory')
  await untilRunning(server, id)
  assert.equal(await variable(id, 'TOKEN'), plantedToo, 'its own, of the same name')
  assert.equal((await runIn(server, id, `grep -rqF '${planted}' /proc/1/environ /run /etc`)).exitCode, 1)
  assert.equal((await runIn(server, id, `test -e /run/secrets || grep -rqF planted-in-a-file /run /etc /var`)).exitCode, 1)
  await ask('DELETE', `/instances/${id}`)
})

test('what the owner lets others inherit is in their forks, and stays theirs to change', async () => {
  assert.equal((await ask('PATCH', `/instances/${origin}`, { inherit_secrets: true }, 'mallory')).status, 400)
  assert.equal((await ask('PATCH', `/instances/${origin}`, { inherit_secrets: true })).status, 200)
  const id = await made(`/instances/${origin}/fork`, { name: 'let', from_running: true }, 'mallory')
  countVm('fork')
  assert.equal(await variable(id, 'TOKEN'), planted)
  assert.equal(await secretFile(id, 'tls.key'), plantedFile)
  for (const change of [{ secret_env: { TOKEN: 'x' } }, { secret_files: { 'tls.key': 'x' } }])
    assert.equal((await ask('PATCH', `/instances/${id}`, change, 'mallory')).status, 403)
  await ask('DELETE', `/instances/${id}`)
})

test('requests that are wrong are answered without the secrets in them', async () => {
  for (const body of [
    `{"name":"x","image":"hypeman/base","secret_env":{"TOKEN":"${planted}"`,
    { ...small, name: 'x', secret_env: { TOKEN: [planted] } },
    { ...small, name: 'x', env: { TOKEN: planted }, secret_env: { TOKEN: planted } },
    { ...small, name: 'X X', secret_env: { TOKEN: planted } },
    { ...small, name: 'x', image: 'no/such/image@', secret_env: { TOKEN: planted } },
    { ...small, name: 'x', secret_env: planted },
    `{"name":"x","image":"hypeman/base","secret_files":{"tls.key":${planted}}}`,
    { ...small, name: 'x', secret_files: { '../tls.key': planted } },
    { ...small, name: 'x', secret_files: { 'tls.key': `${planted}\ud800` } },
    { ...small, name: 'x', secret_files: { 'tls.key': planted + 'x'.repeat(64 * 1024) } },
    { ...small, name: 'x', secret_files: Object.fromEntries(Array.from({ length: 5 }, (_, at) => [`f${at}`, planted.padEnd(64 * 1024)])) },
  ]) {
    const { status, json } = await ask('POST', '/instances', body)
    assert.equal(status, 400)
    assert.doesNotMatch(JSON.stringify(json), /planted/, 'not even the beginning of one')
  }
  assert.deepEqual(await names(), ['origin'])
})

/** Whole texts, and the first line of each: what quotes them may break off there. */
const texts = [planted, plantedToo, ...[plantedFile, plantedFileToo].flatMap((text) => [text, text.slice(0, text.indexOf('\n'))])]
/** Every form in which a secret could be written down. */
const forms = texts.flatMap((text) => [
  text,
  JSON.stringify(text).slice(1, -1),
  encodeURIComponent(text),
  Buffer.from(text).toString('base64').slice(0, -4),
  Buffer.from(text).toString('hex'),
])
const shows = (text: string): boolean => forms.some((form) => text.includes(form))

/** Of what the server has written, all but memory, disks and images. */
async function* writtenFiles(directory: string): AsyncGenerator<string> {
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const at = path.join(directory, entry.name)
    if (entry.isDirectory()) yield* writtenFiles(at)
    else if (entry.isFile() && /\.(json|jsonl|log|tmp)$|-key$|secret$/.test(entry.name)) yield at
  }
}

async function processesThatShowIt(): Promise<string[]> {
  const found: string[] = []
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name)))
    for (const file of ['cmdline', 'environ']) {
      const text = await readFile(`/proc/${pid}/${file}`, 'utf8').catch(() => '') // it has ended meanwhile
      if (shows(text)) found.push(`/proc/${pid}/${file}`)
    }
  return found
}

test('no record, log, event, audit line, answer, trace, argument or environment on the host has a secret in it', async () => {
  const files = await Array.fromAsync(writtenFiles(server.dataDirectory))
  for (const name of ['record.json', 'snapshot.json', 'events.jsonl', 'audit.jsonl', 'app.log', 'secrets-key', 'key-ring.json'])
    assert.ok(
      files.some((file) => path.basename(file) === name),
      `${name} is among what is looked into`,
    )
  const written = await Promise.all(files.map(async (file) => [file, await readFile(file, 'utf8')] as const))
  assert.deepEqual(
    written.filter(([, text]) => shows(text)).map(([file]) => file),
    [],
  )
  assert.equal(shows(await server.log()), false, 'the log of the server')
  assert.equal(shows(answers.join('\n')), false, 'an answer')
  assert.ok(collector.spans.length > 0)
  assert.equal(shows(inspect(collector.spans, { depth: null, maxArrayLength: null, maxStringLength: null })), false, 'a trace')
  assert.deepEqual(await processesThatShowIt(), [])
  assert.ok(shows(`x${planted}x`), 'the test would see it')
})

test('after the key was replaced the old one is needed no more, for snapshots either; without a key that fits, a start says so', async () => {
  assert.equal((await stat(layout.secretsKey)).mode & 0o777, 0o600)
  // What is given to one that runs is there from its next boot on.
  const words = ['update', 'env', 'origin', '--secret-file', 'tls.key=-']
  const updated = await hypeman(server.url, words, { input: plantedFileToo, env: { HYPEMAN_API_KEY: server.token } })
  assert.deepEqual([updated.code, updated.stdout, updated.stderr], [0, 'origin has tls.key from its next start on\n', ''])
  assert.equal(await secretFile(origin, 'tls.key'), plantedFile)
  await server.restart({ ...tracing, SECRETS__KEY: 'the key that replaces the first' })
  await rm(layout.secretsKey)
  await server.restart({ ...tracing, SECRETS__KEY: 'the key that replaces the first' })
  await ask('POST', `/instances/${origin}/stop`)
  await ask('POST', `/instances/${origin}/start`, {})
  await untilRunning(server, origin)
  assert.deepEqual([await variable(origin, 'TOKEN'), await secretFile(origin, 'tls.key')], [planted, plantedFileToo])
  await ask('POST', `/instances/${origin}/stop`)
  const fork = await made(`/snapshots/${warm}/fork`, { name: 'later', secret_env: { TENANT_KEY: plantedToo } })
  countVm('fork')
  assert.deepEqual([await variable(fork, 'TOKEN'), await variable(fork, 'TENANT_KEY')], [planted, plantedToo])
  await ask('DELETE', `/instances/${fork}`)

  await server.restart({ ...tracing, SECRETS__KEY: 'a key that has sealed nothing here' })
  assert.match(await server.log(), /no key of this server opens some of the keys of secrets/)
  const closed = await ask('POST', `/instances/${origin}/start`, {})
  assert.deepEqual([closed.status, closed.json['code']], [409, 'conflict'])
  assert.match(String(closed.json['message']), /TOKEN, the file tls\.key of tests can't be opened.*SECRETS__PREVIOUS_KEY/)
  await server.restart({
    ...tracing,
    SECRETS__KEY: 'a key that has sealed nothing here',
    SECRETS__PREVIOUS_KEY: 'the key that replaces the first',
  })
  assert.equal((await ask('POST', `/instances/${origin}/start`, {})).status, 200)
})
