// What shells offer for a half-typed command line, and that the script for bash brings it there.

import assert from 'node:assert/strict'
import { mkdtemp, rm, symlink } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { run } from '../../tests/support/command.ts'
import { fakeInstance, startFakeServer } from '../../tests/support/fake-server.ts'
import { hypeman } from '../../tests/support/fake-terminal.ts'

test('commands, options and their values come from the declarations', async () => {
  const offered = async (...words: string[]): Promise<string[]> =>
    (await hypeman('http://127.0.0.1:9', ['__complete', '--', ...words])).stdout.split('\n').filter((word) => word !== '')
  assert.deepEqual(await offered('st'), ['stats', 'start', 'stop', 'standby'])
  assert.deepEqual(await offered('snapshot', 'f'), ['fork'])
  assert.deepEqual(await offered('images', 'de'), ['delete'])
  assert.deepEqual(await offered('logs', '--f'), ['--follow', '--format'])
  assert.deepEqual(await offered('logs', '--source', 'v'), ['vmm'])
  assert.deepEqual(await offered('--format', 'js'), ['json', 'jsonl'])
  assert.deepEqual(await offered('completion', ''), ['bash', 'zsh', 'fish'])
  assert.ok(!(await offered('')).includes('__complete'))
})

test('names come from the server; without one nothing is offered, and nothing is said', async () => {
  await using server = await startFakeServer()
  server.on('GET /instances', { json: [fakeInstance('web'), fakeInstance('db')] })
  server.on('GET /pushes', { json: [{ id: 'push1' }] })
  server.on('GET /images', { json: [{ name: 'docker.io/library/alpine:3.20' }] })
  const offered = async (...words: string[]): Promise<string> => (await hypeman(server.url, ['__complete', '--', ...words])).stdout
  assert.equal(await offered('stop', 'db', 'w'), 'web\n')
  assert.equal(await offered('logs', '-f', ''), 'web\ndb\n')
  assert.equal(await offered('logs', '--tail', '3', 'd'), 'db\n')
  assert.equal(await offered('cp', 'w'), 'web:\n')
  assert.equal(await offered('run', '--rm', 'al'), 'alpine:3.20\n')
  assert.equal(await offered('push', ''), 'list\nget\ndocker.io/library/alpine:3.20\nalpine:3.20\n')
  assert.equal(await offered('push', 'get', ''), 'push1\n')
  assert.equal(await offered('inspect', 'web', ''), '')
  const { code, stdout, stderr } = await hypeman('http://127.0.0.1:9', ['__complete', '--', 'stop', ''])
  assert.deepEqual([code, stdout, stderr], [0, '', ''])
})

test('bash completes through the script', async () => {
  await using server = await startFakeServer()
  server.on('GET /instances', { json: [fakeInstance('web-1'), fakeInstance('web-2')] })
  const directory = await mkdtemp(path.join(os.tmpdir(), 'cli-complete-'))
  await using _directory = { [Symbol.asyncDispose]: () => rm(directory, { recursive: true }) }
  await symlink(path.join(import.meta.dirname, '../../bin/hypeman'), path.join(directory, 'hypeman'))
  const script = `source <(hypeman completion bash); COMP_WORDS=(hypeman stop we); COMP_CWORD=2; _hypeman; printf '%s ' "\${COMPREPLY[@]}"`
  const env = { PATH: `${directory}:/usr/bin:/bin`, HOME: directory, HYPEMAN_BASE_URL: server.url, HYPEMAN_API_KEY: 'token' }
  const { code, stdout, stderr } = await run('bash', ['--norc', '-c', script], { env })
  assert.deepEqual([code, stdout, stderr], [0, 'web-1 web-2 ', ''])
})
