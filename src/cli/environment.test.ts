// Variables on the command line: secret ones by name or in files alone, for run, update env and both forks.

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

const instance = { id: 'i', name: 'web', state: 'Running' }
const options = ['--env', 'MODE=x', '--secret-env', 'TOKEN', '--secret-env-file', file, '--inherit-secrets']
const expected = { env: { MODE: 'x' }, secret_env: { KEY: 'abc', FROM_HERE: 'here', TOKEN: 'hush' }, inherit_secrets: true }

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
    const { code, stdout, stderr } = await hypeman(server.url, words, { env: { TOKEN: 'hush', FROM_HERE: 'here' } })
    assert.equal(code, 0, stderr)
    const body = server.requests.find(({ method, path: at }) => `${method} ${at}` === route)?.body as Record<string, unknown>
    assert.deepEqual({ env: body['env'], secret_env: body['secret_env'], inherit_secrets: body['inherit_secrets'] }, expected)
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
