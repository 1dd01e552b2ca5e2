// The dependency rules on made-up lock files: each rule must be able to say no.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { complaints, newPackages, type Dependencies, type LockFile } from './rules.ts'

const scripted: LockFile['packages'] = Object.fromEntries(
  ['koffi', 'ssh2', 'cpu-features', 'protobufjs'].map((name) => [
    `node_modules/${name}`,
    { version: '1.0.0', license: 'MIT', hasInstallScript: true },
  ]),
)

function dependencies(change: { packages?: LockFile['packages']; pins?: Record<string, string>; page?: string }): Dependencies {
  return {
    lock: { packages: { '': {}, ...scripted, ...change.packages } },
    manifest: { dependencies: change.pins ?? {}, devDependencies: {}, optionalDependencies: {} },
    page: change.page ?? '',
    statedLicence: (place) => (place.endsWith('/old') ? 'MIT' : undefined),
  }
}

test('a closure of allowed licences without new scripts is fine', () => {
  const packages = {
    'node_modules/a': { license: '(MIT OR GPL-3.0-only)' },
    'node_modules/a/node_modules/old': {},
    'node_modules/b': { license: 'MIT AND BSD-3-Clause' },
  }
  assert.deepEqual(complaints(dependencies({ packages })), [])
})

test('a licence that is not on the list, or none, is refused wherever the package lies', () => {
  const packages = {
    'node_modules/a/node_modules/b': { license: 'AGPL-3.0-only' },
    'node_modules/c': { license: 'MIT AND GPL-2.0-only' },
    'node_modules/d': {},
  }
  assert.deepEqual(complaints(dependencies({ packages })), [
    'node_modules/a/node_modules/b has the licence AGPL-3.0-only, which is not on the list',
    'node_modules/c has the licence MIT AND GPL-2.0-only, which is not on the list',
    'node_modules/d names no licence',
  ])
})

test('a new install script is refused, and so is one on the list that is gone', () => {
  const packages = { 'node_modules/new': { license: 'MIT', hasInstallScript: true }, 'node_modules/koffi': { license: 'MIT' } }
  assert.deepEqual(complaints(dependencies({ packages })), [
    'new has an install script that nobody has looked at',
    'koffi is listed for its install script, and has none or is not used any more',
  ])
})

test('a range instead of a version is refused', () => {
  const row = '| `a` | why | MIT | 1 kB | no | nothing |'
  assert.deepEqual(complaints(dependencies({ pins: { a: '^1.0.0' }, page: row })), ['a is not pinned exactly (^1.0.0)'])
})

test('each dependency has a row that tells the truth, and no row is left over', () => {
  const page = '| `a` | why | ISC | 1 kB | yes | nothing |\n| `gone` | why | MIT | 1 kB | no | nothing |'
  const packages = { 'node_modules/a': { license: 'MIT' }, 'node_modules/b': { license: 'MIT' } }
  assert.deepEqual(complaints(dependencies({ packages, pins: { a: '1.0.0', b: '1.0.0' }, page })), [
    'docs/decisions/dependencies.md has no row for b',
    'docs/decisions/dependencies.md has a row for gone, which package.json does not name',
    'docs/decisions/dependencies.md gives a the licence ISC, the package says MIT',
    'docs/decisions/dependencies.md is wrong on the install script of a',
  ])
})

test('what is new in the closure is named with its version, an update as well', () => {
  const before = { packages: { 'node_modules/a': { version: '1.0.0' }, 'node_modules/b': { version: '1.0.0' } } }
  const now = {
    packages: {
      'node_modules/a': { version: '1.0.1' },
      'node_modules/b': { version: '1.0.0' },
      'node_modules/b/node_modules/c': { version: '2.0.0' },
    },
  }
  assert.deepEqual(newPackages(before, now), ['a 1.0.1', 'c 2.0.0'])
})
