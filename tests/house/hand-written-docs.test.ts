// Pages that are written by hand say what the code says: settings, states, and what lies where.

import assert from 'node:assert/strict'
import { globSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { instanceStates, isLegal, type InstanceAction } from '../../src/api/actions.ts'
import { dataLayout } from '../../src/files/layout.ts'
import { variables } from '../../src/platform/config.ts'

const docs = path.join(import.meta.dirname, '..', '..', 'docs')

/** Cells of the rows of every table in a page. */
async function rowsOf(page: string): Promise<string[][]> {
  const lines = (await readFile(path.join(docs, page), 'utf8')).split('\n')
  return lines
    .filter((line) => line.startsWith('|'))
    .map((line) =>
      line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim()),
    )
}

test('docs/configuration.md has a row for each setting with its variable, and no other', async () => {
  const told = (await rowsOf('configuration.md')).filter(([name]) => name?.startsWith('`')).map(([name, variable]) => `${name} ${variable}`)
  assert.deepEqual(told.toSorted(), variables.map(([names, variable]) => `\`${names.join('.')}\` \`${variable}\``).toSorted())
})

const actionsOfRow: Readonly<Record<string, readonly InstanceAction[]>> = {
  start: ['start'],
  stop: ['stop'],
  standby: ['standby'],
  restore: ['restore'],
  fork: ['fork'],
  'snapshot `Standby`': ['snapshotStandby'],
  'snapshot `Stopped`': ['snapshotStopped'],
  'restore a snapshot': ['restoreSnapshot'],
  'attach, detach a volume': ['attachVolume', 'detachVolume'],
  'exec, copy, stat': ['exec', 'copy', 'stat'],
  'logs, update, delete': ['logs', 'update', 'delete'],
}

test('docs/states.md allows in each state what the table of actions allows', async () => {
  const rows = await rowsOf('states.md')
  for (const [name, actions] of Object.entries(actionsOfRow)) {
    const [, ...cells] = rows.find(([first]) => first === name) ?? []
    assert.equal(cells.length, instanceStates.length, name)
    for (const action of actions)
      for (const [index, state] of instanceStates.entries())
        assert.equal(cells[index] !== '–', isLegal(action, state), `${action} in ${state}`)
  }
})

test('docs/on-disk-layout.md names everything that lies directly in the data directory', async () => {
  const told = (await rowsOf('on-disk-layout.md')).map(([name]) => name ?? '')
  const layout = dataLayout('/data')
  const places = Object.values(layout).filter((value): value is string => typeof value === 'string' && path.dirname(value) === '/data')
  for (const place of places) {
    const name = path.basename(place)
    assert.ok(
      told.some((cell) => new RegExp(`^\`${name}[\`/]`).test(cell)),
      name,
    )
  }
})

test('docs/reliability.md quotes only tests that there are', async () => {
  const root = path.join(docs, '..')
  const files = globSync('{src,tests}/**/*.test.ts', { cwd: root })
  const sources = (await Promise.all(files.map((file) => readFile(path.join(root, file), 'utf8')))).join('\n')
  const quoted = (await rowsOf('reliability.md')).flatMap((cells) =>
    [...cells.join('|').matchAll(/"([^"]+)"/g)].map((match) => match[1] ?? ''),
  )
  assert.ok(quoted.length > 5)
  // What a name has from a table of cases is an ellipsis in the page.
  for (const name of quoted)
    for (const part of name.split('…')) assert.ok(sources.includes(part.trim()), `no test is called ${JSON.stringify(name)}`)
})
