// The script of fork-check in the smallest shell there is, and what its lines mean.

import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { findingsOf, identityOf, isLoopback, script } from './probes.ts'

function runScript(shell: readonly [string, ...string[]], PATH: string): ReadonlyMap<string, string> {
  const [command, ...args] = shell
  const output = execFileSync(command, [...args, '-c', script], { encoding: 'utf8', env: { PATH } })
  return new Map(findingsOf(output).map(({ probe, value }) => [probe, value]))
}

/** Its path, if it is here. */
const python = spawnSync('sh', ['-c', 'command -v python3'], { encoding: 'utf8' }).stdout.trim() || undefined

for (const shell of [['sh'], ['busybox', 'sh']] as const)
  test(`${shell.join(' ')}: the script reads the kernel's randomness and ids, first of all random bytes`, () => {
    const PATH = process.env['PATH'] ?? ''
    const [found, again] = [runScript(shell, PATH), runScript(shell, PATH)]
    assert.equal([...found.keys()][0], 'urandom')
    for (const probe of ['urandom', 'random']) {
      assert.match(found.get(probe) ?? '', /^[0-9a-f]{64}$/)
      assert.notEqual(found.get(probe), again.get(probe))
    }
    assert.equal(found.get('boot-id'), readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim())
    assert.equal(found.get('hostname'), readFileSync('/proc/sys/kernel/hostname', 'utf8').trim())
    assert.match(found.get('clock') ?? '', /^\d{10}/)
  })

test('programs that are there are asked, too: node as the tests have it', () => {
  const found = runScript(['sh'], process.env['PATH'] ?? '')
  assert.match(found.get('node-bytes') ?? '', /^[0-9a-f]{64}$/)
  assert.match(found.get('node-random') ?? '', /^0?\.\d+/)
})

test('what a small Python lacks does not hide what it has', { skip: python === undefined && 'there is no python3 here' }, async (t) => {
  const directory = await mkdtemp(path.join(tmpdir(), 'hypeman-probes-'))
  t.after(() => rm(directory, { recursive: true }))
  await writeFile(path.join(directory, 'uuid.py'), 'raise ImportError("not in this package")\n')
  await writeFile(path.join(directory, 'python3'), `#!/bin/sh\nPYTHONPATH=${directory} exec ${python} "$@"\n`, { mode: 0o755 })
  const found = runScript(['sh'], `${directory}:${process.env['PATH']}`)
  assert.match(found.get('getrandom') ?? '', /^[0-9a-f]{64}$/)
  assert.match(found.get('python-random') ?? '', /^0?\.\d+/)
  assert.equal(found.get('python-uuid'), undefined)
})

test('lines that are not of the script are passed over', () => {
  assert.deepEqual(findingsOf('noise\n\tnothing\nuuid\ta b \n'), [{ probe: 'uuid', value: 'a b' }])
})

test('connections within the guest are told from those to the outside', () => {
  for (const [remote, expected] of [
    ['0100007F:1F90', true],
    ['0202000A:1F90', false],
    ['00000000000000000000000001000000:1F90', true],
    ['0000000000000000FFFF00000100007F:1F90', true],
    ['0000000000000000FFFF00000202000A:1F90', false],
  ] as const)
    assert.equal(isLoopback(`0F02000A:9C40 ${remote}`), expected, remote)
})

test('what the guest agent says of the identity is taken only in its own form', () => {
  assert.deepEqual(identityOf('{"generation":3,"instance_id":"a","reason":"fork"}'), { instanceId: 'a', generation: 3 })
  for (const text of ['', 'gone', '{', '{"generation":"3"}', '{nonsense}']) assert.deepEqual(identityOf(text), {})
})
