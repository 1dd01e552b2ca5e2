// Credentials on their way to a tool: it reads them, as often as it likes, and nobody finds them under a name.

import assert from 'node:assert/strict'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { lendCredentials } from './credentials.ts'
import { parseReference } from './reference.ts'
import { runTool } from '../platform/tool.ts'

const reference = parseReference('registry.example.com/app:1')

test('a tool reads the credentials, twice, and there is no file with a name that holds them', async () => {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'credentials-'))
  await using _directory = { [Symbol.asyncDispose]: () => rm(directory, { recursive: true }) }
  const before = await readdir('/dev/shm').catch((): string[] => [])
  const lent = await lendCredentials(directory, reference, { username: 'ada', password: 'secret' })
  await using _lent = lent
  const { env, inherit } = lent
  const said = await runTool('sh', ['-c', 'cat "$REGISTRY_AUTH_FILE" && cat "$REGISTRY_AUTH_FILE"'], {
    cwd: directory,
    signal: new AbortController().signal,
    env,
    inherit,
  })
  const text = JSON.stringify({ auths: { 'registry.example.com': { auth: Buffer.from('ada:secret').toString('base64') } } })
  assert.equal(said.toString(), text + text)
  assert.deepEqual(await readdir(directory), [])
  const names = (await readdir('/dev/shm').catch((): string[] => [])).filter(
    (name) => name.startsWith('hypeman-') && !before.includes(name),
  )
  assert.deepEqual(names, [])
})

test('no credentials, or empty ones, leave a tool to its own', async () => {
  for (const none of [undefined, {}, { username: '', password: '' }, { registryToken: 'token' }]) {
    await using lent = await lendCredentials('/nowhere', reference, none)
    assert.deepEqual([lent.env, lent.inherit], [{}, []])
  }
})
