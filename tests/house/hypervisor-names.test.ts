// What a hypervisor can do is asked of its driver, never of its name: no code but the hypervisor's own, the list of drivers, the wire's
// words and the settings holds one as a value.

import assert from 'node:assert/strict'
import { existsSync, globSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'node:test'
import { hypervisorNames } from '../../src/api/schemas/common.ts'

const root = path.join(import.meta.dirname, '..', '..')
/** Folders whose hypervisors are not called as they are. */
const namesOfFolder: Readonly<Record<string, readonly string[]>> = { qemu: ['qemu', 'qemu-microvm'] }
const allowed: ReadonlySet<string> = new Set(['src/drivers.ts', 'src/api/schemas/common.ts', 'src/platform/config.ts'])

/** Strings of code that are a hypervisor's name and nothing else; those in comments are none. */
function namesIn(text: string): string[] {
  const code = text.replaceAll(/^\s*(?:\/\/|\/?\*).*$/gm, '')
  const literals = new RegExp(`(['"\`])(${hypervisorNames.join('|')})\\1`, 'g')
  return [...code.matchAll(literals)].map(([, , name = '']) => name)
}

/** Names in a file that it may not hold. */
function foreignNames(file: string, text: string): string[] {
  if (allowed.has(file)) return []
  const folder = /^src\/hypervisors\/([^/]+)\//.exec(file)?.[1]
  const own = folder === undefined ? [] : (namesOfFolder[folder] ?? [folder])
  return namesIn(text).filter((name) => !own.includes(name))
}

test('no file names a hypervisor that it is not of', () => {
  const files = globSync('src/**/*.ts', { cwd: root, exclude: ['**/*.test.ts'] })
  assert.ok(files.length > 200, 'the source is found')
  const found = files.flatMap((file) => foreignNames(file, readFileSync(path.join(root, file), 'utf8')).map((name) => `${file}: '${name}'`))
  assert.deepEqual(found, [], 'ask the driver what it can do, by a member of the contract')
})

test('a test for a name is found wherever it is, and a hypervisor may call itself by its own', () => {
  for (const [file, text, expected] of [
    ['src/instances/a.ts', "if (driver.name === 'qemu') return", ['qemu']],
    ['src/hypervisors/driver.ts', 'const all = ["vz", `firecracker`]', ['vz', 'firecracker']],
    ['src/hypervisors/qemu/a.ts', "const names = ['qemu', 'qemu-microvm', 'firecracker']", ['firecracker']],
    ['src/hypervisors/firecracker/a.ts', "const name = 'firecracker'", []],
    ['src/instances/b.ts', "// as 'qemu' does\nconst text = 'qemu is not there'", []],
    ['src/drivers.ts', "const first = 'vz'", []],
  ] as const)
    assert.deepEqual(foreignNames(file, text), expected, file)
})

test('the files that may name hypervisors are there', () => {
  for (const file of allowed) assert.ok(existsSync(path.join(root, file)), file)
})
