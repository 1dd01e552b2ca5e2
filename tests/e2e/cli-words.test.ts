// What the command line says of itself and of mistakes, as a new user meets it: help, completion, tokens, wrong words, no server. No machine is needed.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { after, test } from 'node:test'
import { commandsOf, wholeProgram } from '../../scripts/cli-reference.ts'
import { startServer } from '../support/server.ts'
import { promptOf } from '../support/typed.ts'

const server = await startServer()
after(() => server[Symbol.asyncDispose]())
const { line, done, refused } = promptOf(server)

test('--help of every command, and of every group, tells how it is used, with examples', async () => {
  const names = [...commandsOf(await wholeProgram())].map(({ name }) => name)
  assert.ok(names.length > 40)
  const groups = [...new Set(names.map((name) => name.split(' ').slice(0, -1).join(' ')))]
  for (const name of groups) assert.match(await done(`${name} --help`), /^Usage: hypeman/, name)
  for (let at = 0; at < names.length; at += 4)
    await Promise.all(
      names.slice(at, at + 4).map(async (name) => assert.match(await done(`${name} --help`), /^Usage: hypeman[\s\S]*\nExamples:\n/, name)),
    )
  assert.match(await done('hypeman --version'), /^\d+\.\d+\.\d+$/)
})

test('the script for bash completes commands, options, their values and names on the server', async () => {
  await done('hypeman volume create --name disks --size 1')
  const completed = (...words: string[]): Promise<string> =>
    done(
      `source <(hypeman completion bash); COMP_WORDS=(hypeman ${words.map((word) => `'${word}'`).join(' ')}) COMP_CWORD=${words.length}; ` +
        'complete -p hypeman >/dev/null && _hypeman; echo "${COMPREPLY[@]}"',
    )
  assert.equal(await completed('sn'), 'snapshot')
  assert.equal(await completed('snapshot', 'f'), 'fork')
  assert.equal(await completed('rm', '--f'), '--force --format')
  assert.equal(await completed('ps', '--state', 'St'), 'Stopped Standby')
  assert.equal(await completed('volume', 'delete', 'd'), 'disks')
  assert.equal(await completed('run', 'hy'), 'hypeman/base:latest')
  for (const shell of ['zsh', 'fish']) assert.match(await done(`hypeman completion ${shell}`), /__complete/)
  await done('hypeman volume delete disks')
})

test('a thing that is not there is told in one line that says where to look', async () => {
  for (const words of ['inspect', 'logs', 'stop', 'start', 'standby', 'restore', 'exec', 'rm', 'stats', 'events', 'snapshot create'])
    assert.equal(await refused(1, `hypeman ${words} nobody`), 'Error: there is no instance "nobody"; hypeman ps -a lists all\n', words)
  assert.match(
    await refused(1, 'hypeman snapshot get nothing'),
    /^Error: there is no snapshot "?nothing"?; hypeman snapshot list shows all\n$/,
  )
  assert.match(await refused(1, 'hypeman volume get nothing'), /^Error: .*nothing.*\n$/)
  assert.match(await refused(1, 'hypeman run --name Not_A_Name hypeman/base'), /^Error: name: .*\n/)
})

test('words that are used wrongly end with 2 and say how', async () => {
  assert.match(await refused(2, 'hypeman frobnicate'), /^Error: unknown command 'frobnicate'\n.*--help/)
  assert.match(await refused(2, 'hypeman ps --nosuch'), /^Error: unknown option '--nosuch'\n.*--help/)
  assert.match(await refused(2, 'hypeman exec'), /^Error: missing required argument 'instance'\n.*--help/)
  assert.match(await refused(2, 'hypeman ps --state Sleeping'), /Allowed choices are Created,/)
  assert.match(await refused(2, 'hypeman run hypeman/base --name x'), /options go before it/)
  assert.match(await refused(2, 'hypeman snapshot fork base'), /give a name for one instance, or --count/)
  assert.match(await refused(2, 'hypeman rm'), /name the instances, or give --all/)
})

test('a token of the command line lets others in, as far as its scope goes', async () => {
  const create = `hypeman token create --data-dir ${server.dataDirectory}`
  assert.equal(await done(`export HYPEMAN_API_KEY=$(${create}); hypeman ps -q`), '')
  assert.equal(await done(`unset HYPEMAN_API_KEY; export DATA_DIR=${server.dataDirectory}; hypeman health`), 'ok')
  const onlyLooks = `export HYPEMAN_API_KEY=$(${create} --sub ci --scope instance:read)`
  assert.equal(await done(`${onlyLooks}; hypeman ps -q`), '')
  assert.match(await refused(1, `${onlyLooks}; hypeman volume create --name x --size 1`), /volume:write/)
  assert.match(
    await refused(1, 'HYPEMAN_API_KEY=nonsense hypeman ps'),
    /^Error: .*token.*\nSet HYPEMAN_API_KEY to a token \(hypeman token create makes one\)/,
  )
})

test('without a server, what to start is said', async () => {
  const url = `http://127.0.0.1:${await freePort()}`
  for (const words of ['ps', 'exec web true', 'cp web:/etc/hostname .', 'logs -f web'])
    assert.match(
      await refused(1, `hypeman --base-url ${url} ${words}`),
      new RegExp(
        `^Error: no server answers at ${url}.*\nStart one with hypeman serve, or name another with --base-url or HYPEMAN_BASE_URL.\n$`,
      ),
      words,
    )
})

test('output that nobody reads any more ends a command quietly', async () => {
  const { stdout, stderr } = await line('hypeman capabilities | head -1')
  assert.deepEqual([stdout, stderr], ['{\n', ''])
})

async function freePort(): Promise<number> {
  const listener = createServer().listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const address = listener.address()
  listener.close()
  await once(listener, 'close')
  if (address === null || typeof address === 'string') throw new Error('the listener had no port')
  return address.port
}
