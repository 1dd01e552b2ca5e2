// Variables on the command line: secret ones by name or in files alone, and secret files, for run, update env and both forks.

import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { startFakeServer, type FakeServer } from '../../tests/support/fake-server.ts'
import { hypeman } from '../../tests/support/fake-terminal.ts'

const directory = await mkdtemp(path.join(os.tmpdir(), 'hypeman-cli-'))
after(() => rm(directory, { recursive: true }))
const file = path.join(directory, 'secret.env')
await writeFile(file, '# not shown\nKEY=abc\nFROM_HERE\n')
const key = path.join(directory, 'tls.key')
await writeFile(key, '\ufeffhush\r\nkey\0\n')

const instance = { id: 'i', name: 'web', state: 'Running' }
const files = ['--secret-file', key, '--secret-file', `other=${key}`, '--secret-file', 'token=-']
const options = ['--env', 'MODE=x', '--secret-env', 'TOKEN', '--secret-env-file', file, ...files, '--inherit-secrets']
const expected = {
  env: { MODE: 'x' },
  secret_env: { KEY: 'abc', FROM_HERE: 'here', TOKEN: 'hush' },
  secret_files: { 'tls.key': '\ufeffhush\r\nkey\0\n', other: '\ufeffhush\r\nkey\0\n', token: 'hush from elsewhere' },
  inherit_secrets: true,
}

async function fakeServer(): Promise<FakeServer> {
  const server = await startFakeServer()
  server.on('GET /snapshots', { json: [] })
  server.on('GET /images/alpine', { json: { name: 'alpine', status: 'ready' } })
  for (const route of ['POST /instances', 'PATCH /instances/web', 'POST /instances/web/fork', 'POST /snapshots/warm/fork'])
    server.on(route, { json: instance })
  return server
}

for (const [route, words] of [
  ['POST /instances', ['run', '-d', '--name', 'web', ...options, 'alpine']],
  ['PATCH /instances/web', ['update', 'env', 'web', ...options]],
  ['POST /instances/web/fork', ['fork', 'web', 'web-2', ...options]],
  ['POST /snapshots/warm/fork', ['snapshot', 'fork', 'warm', 'web-2', ...options]],
] as const)
  test(`${words.slice(0, 2).join(' ')} sends variables and secrets, each as what it is, and shows no secret`, async () => {
    await using server = await fakeServer()
    const { code, stdout, stderr } = await hypeman(server.url, words, {
      env: { TOKEN: 'hush', FROM_HERE: 'here' },
      input: 'hush from elsewhere',
    })
    assert.equal(code, 0, stderr)
    const body = server.requests.find(({ method, path: at }) => `${method} ${at}` === route)?.body as Record<string, unknown>
    assert.deepEqual(Object.fromEntries(Object.keys(expected).map((field) => [field, body[field]])), expected)
    assert.doesNotMatch(stdout + stderr, /hush|abc/)
  })

test('a secret is no word of a command, and has to be there; a line of a file that makes no sense is not repeated', async () => {
  await using server = await fakeServer()
  const word = await hypeman(server.url, ['fork', 'web', 'web-2', '--secret-env', 'TOKEN=hush'])
  assert.equal(word.code, 2)
  assert.match(word.stderr, /--secret-env-file/)
  assert.doesNotMatch(word.stderr, /hush/)
  const absent = await hypeman(server.url, ['fork', 'web', 'web-2', '--secret-env', 'TOKEN'])
  assert.deepEqual([absent.code, absent.stderr.includes('there is no such variable here')], [2, true])
  const bad = path.join(directory, 'bad.env')
  await writeFile(bad, 'MY TOKEN=hush\n')
  const wrong = await hypeman(server.url, ['fork', 'web', 'web-2', '--secret-env-file', bad])
  assert.equal(wrong.code, 2)
  assert.doesNotMatch(wrong.stderr, /hush/)
  assert.deepEqual(server.requests, [])
})

test('a secret file is text of a length that fits, has a name, and standard input is one of them at most; no refusal says what is in it', async () => {
  await using server = await fakeServer()
  const [long, binary, hidden] = ['long', 'binary', '.hidden'].map((name) => path.join(directory, name)) as [string, string, string]
  await writeFile(long, `hush${'x'.repeat(64 * 1024)}`)
  await writeFile(binary, Buffer.from([0x68, 0x75, 0x73, 0x68, 0xff]))
  await writeFile(hidden, 'hush')
  for (const [words, said] of [
    [[long], /long: it is longer than 65536 bytes/],
    [[binary], /binary: it is not UTF-8 text; encode it, for example with base64/],
    [['token=-'], /token=-: it is longer than 65536 bytes/],
    [[hidden], /give it a name .*NAME=PATH/],
    [['-'], /NAME=-/],
    [['a=-', 'b=-'], /standard input can be one file only/],
  ] as const) {
    const given = words.flatMap((word) => ['--secret-file', word])
    const { code, stdout, stderr } = await hypeman(server.url, ['fork', 'web', 'web-2', ...given], {
      input: `hush${'x'.repeat(64 * 1024)}`,
    })
    assert.equal(code, 2, stderr)
    assert.match(stderr, said)
    assert.doesNotMatch(stdout + stderr, /hush/)
  }
  const absent = await hypeman(server.url, ['fork', 'web', 'web-2', '--secret-file', path.join(directory, 'absent')])
  assert.deepEqual([absent.code, /no such file/.test(absent.stderr)], [1, true], absent.stderr)
  const twice = ['run', '--password-stdin', '--username', 'me', '--secret-file', 'token=-', 'alpine']
  assert.match((await hypeman(server.url, twice, { input: 'hush' })).stderr, /standard input is read once/)
  assert.deepEqual(server.requests, [])
})

test('a path with a = in it, and a name that is given twice, are what they say', async () => {
  await using server = await fakeServer()
  const odd = path.join(directory, 'a=b')
  await writeFile(odd, 'odd')
  const words = ['--secret-file', `x=${key}`, '--secret-file', `x=${odd}`]
  assert.equal((await hypeman(server.url, ['update', 'env', 'web', ...words])).code, 0)
  assert.deepEqual(server.requests.at(-1)?.body, { secret_files: { x: 'odd' } })
  assert.match((await hypeman(server.url, ['update', 'env', 'web', '--secret-file', odd])).stderr, /give it a name/)
})
