// The protocol is written down three times: as schemas, as a page for people, and in Swift, which nothing here compiles. They must name the same things.

import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'node:test'
import { configuration, operations, PROTOCOL, refusals, states, type Operation } from './protocol.ts'

const vz = path.resolve(import.meta.dirname, '../../../vz')
const page = readFileSync(path.join(vz, 'PROTOCOL.md'), 'utf8')
const swift = globSync('Sources/**/*.swift', { cwd: vz })
  .map((file) => readFileSync(path.join(vz, file), 'utf8'))
  .join('\n')

/** Cells of the rows of the page's table that follows a heading. */
function rowsUnder(heading: string): string[][] {
  const section = page.slice(page.indexOf(`## ${heading}`)).split('\n## ')[0] ?? ''
  const rows = section.split('\n').filter((line) => line.startsWith('| '))
  return rows.slice(1).map((row) =>
    row
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  )
}

/** In an order that does not depend on where they stand. */
const sorted = (names: readonly string[]): string[] => names.toSorted((one, other) => one.localeCompare(other))

const words = (cell: string): string[] => [...cell.matchAll(/`([^`]+)`/g)].map(([, word]) => word ?? '')

test('the page, the schemas and the helper have the same operations, with the same methods', () => {
  const rows = rowsUnder('Requests').map(([name = '', method = '']) => `${words(name).join(' ')} ${method}`)
  assert.deepEqual(sorted(rows), sorted(Object.entries(operations).map(([name, { method }]) => `${name} ${method}`)))
  for (const [name, { method }] of Object.entries(operations)) {
    const handled = method === 'GET' ? `case ("GET", "${name}"):` : `case "${name}":`
    assert.ok(swift.includes(handled), `the helper has no ${handled}`)
  }
})

test('they have the same fields of a configuration', () => {
  const fields = sorted(Object.keys(configuration.unwrap().shape))
  assert.deepEqual(sorted(rowsUnder('Configuration').flatMap(([names = '']) => words(names))), fields)
  const struct = /struct MachineConfiguration: Codable \{([\s\S]*?)\n\n/.exec(swift)?.[1] ?? ''
  assert.deepEqual(sorted([...struct.matchAll(/let (\w+):/g)].map(([, name]) => name ?? '')), fields)
  for (const field of fields) assert.ok(swift.includes(`forKey: .${field})`), `the helper does not answer with ${field}`)
})

test('they have the same refusals, with the same status', () => {
  assert.deepEqual(Object.fromEntries(rowsUnder('Refusals').map(([code = '', status]) => [words(code)[0], Number(status)])), refusals)
  for (const [code, status] of Object.entries(refusals)) {
    const name = code.replaceAll(/_(\w)/g, (_, letter: string) => letter.toUpperCase())
    assert.ok(swift.includes(`case ${name} = "${code}"`), `the helper has no ${code}`)
    assert.ok(swift.includes(`case .${name}: return ${status}`), `the helper has another status of ${code}`)
  }
})

test('they have the same states', () => {
  for (const state of states) {
    assert.ok(page.includes(state), `the page has no ${state}`)
    assert.ok(swift.includes(`= "${state}"`), `the helper has no ${state}`)
  }
  assert.equal([...swift.matchAll(/case \w+ = "[A-Z]\w+"/g)].length, states.length)
})

test('answers name the fields of their schemas', () => {
  const named = (struct: string): string[] =>
    [...(new RegExp(`struct ${struct}: Encodable \\{([\\s\\S]*?)\\n(\\n|\\})`).exec(swift)?.[1] ?? '').matchAll(/let `?(\w+)`?:/g)].map(
      ([, name]) => name ?? '',
    )
  const fieldsOf = (operation: 'vmm.ping' | 'vm.create' | 'vm.info'): string[] => Object.keys(operations[operation].answer.shape)
  const structs = { 'vmm.ping': 'PingAnswer', 'vm.create': 'CreateAnswer', 'vm.info': 'InfoAnswer' } as const satisfies Partial<
    Record<Operation, string>
  >
  for (const operation of ['vmm.ping', 'vm.create', 'vm.info'] as const)
    assert.deepEqual(sorted(named(structs[operation])), sorted(fieldsOf(operation)), operation)
})

test('they have the same version', () => {
  assert.ok(page.startsWith(`# The helper's protocol, version ${PROTOCOL}\n`))
  assert.ok(page.includes(`hypeman-vz protocol ${PROTOCOL} on macOS`) && page.includes(`/api/v${PROTOCOL}/`))
  assert.ok(swift.includes(`let protocolVersion = ${PROTOCOL}\n`))
})
