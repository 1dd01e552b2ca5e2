// src/hypervisors/README.md says how small a driver can be. That is counted here, so that the contract does not grow by what each driver has to write again.

import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'node:test'
import { createStandIn } from '../support/stand-in-hypervisor/driver.ts'

const root = path.join(import.meta.dirname, '..', '..')
const smallest = 'tests/support/stand-in-hypervisor/driver.ts'
/** Of what the README says, in parts: a driver that is much smaller makes the sentence as wrong as one that is larger. */
const LEAST = 0.8

const textOf = (file: string): string => readFileSync(path.join(root, file), 'utf8')

/** Without comments and blank lines. */
function linesOfCode(text: string): number {
  return text.split('\n').filter((line) => !/^\s*(?:$|\/\/|\/?\*)/.test(line)).length
}

/** A file and what it imports, directly or not, from its own folder. */
function withOwnFiles(file: string, found = new Set<string>()): ReadonlySet<string> {
  if (found.has(file)) return found
  found.add(file)
  for (const [, name = ''] of textOf(file).matchAll(/ from '\.\/([^']+)'/g)) withOwnFiles(path.join(path.dirname(file), name), found)
  return found
}

function sizeOf(files: Iterable<string>): number {
  return [...files].reduce((sum, file) => sum + linesOfCode(textOf(file)), 0)
}

test('the smallest driver is as small as the page for who adds one says, and has what a driver may leave out, too', () => {
  const [, said] = /smallest complete driver .*`tests\/support\/stand-in-hypervisor`.*at most (\d+) lines of code/.exec(
    textOf('src/hypervisors/README.md'),
  ) ?? [undefined, '']
  const most = Number(said)
  const size = sizeOf(withOwnFiles(smallest))
  assert.ok(most > 0, 'the README has the sentence')
  assert.ok(size <= most && size >= most * LEAST, `the README says at most ${most} lines of code, and there are ${size}`)
  const { memory, balloon } = createStandIn({ name: 'qemu', program: '/none', hasBalloon: true })
  assert.ok(memory !== undefined && balloon !== undefined, 'memory snapshots and a balloon')
})

test('no other driver is smaller', () => {
  const doors = globSync('src/hypervisors/*/index.ts', { cwd: root })
  assert.ok(doors.length >= 4, 'the drivers are found')
  for (const door of doors) assert.ok(sizeOf(withOwnFiles(door)) > sizeOf(withOwnFiles(smallest)), door)
})

test('lines of code are those that are neither blank nor comments, and the files are all of the folder that are imported', () => {
  assert.equal(linesOfCode('// a\n\n/** b\n * c\n */\nconst d = 1 // e\n  // f\nconst g = 2\n'), 2)
  const names = [...withOwnFiles(smallest)].map((file) => path.basename(file)).toSorted()
  assert.deepEqual(names, ['driver.ts', 'files.ts', 'machine.ts'])
})
