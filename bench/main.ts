// npm run bench: what the product costs against the floor of bare QEMU, in the same run. `--quick` takes fewer runs; names pick measurements.

import { execFileSync } from 'node:child_process'
import { mkdir, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { tableLines, type Column } from '../src/cli/output/table.ts'
import { acceleratorOf } from '../src/platform/accelerator.ts'
import { startServer } from '../tests/support/server.ts'
import type { Row } from './measure.ts'
import { measurements } from './rows.ts'

const root = path.join(import.meta.dirname, '..')
const names = measurements.map((one) => one.id)
const usage = `Usage: npm run bench [-- [--quick] [${names.join('|')}]...]

Prints a table and writes bench/results/latest.json.
`

const columns: readonly Column<Row>[] = [
  { title: 'ID', value: (row) => row.id },
  { title: 'WHAT', value: (row) => row.what },
  { title: 'MEDIAN', value: (row) => number(row.value, row.unit), right: true },
  { title: 'P90', value: (row) => number(row.p90, row.unit), right: true },
  { title: 'FLOOR', value: (row) => (row.floor === undefined ? '-' : number(row.floor, row.unit)), right: true },
  { title: 'RATIO', value: (row) => (row.ratio === undefined ? '-' : row.ratio.toFixed(2)), right: true },
  { title: 'TARGET', value: (row) => row.target },
  { title: 'MET', value: (row) => (row.met ? 'yes' : 'NO') },
]

const { values, positionals } = parseArgs({ allowPositionals: true, options: { quick: { type: 'boolean' }, help: { type: 'boolean' } } })
const unknown = positionals.filter((name) => !names.includes(name))
if (values.help === true || unknown.length > 0) {
  process.stdout.write(unknown.length > 0 ? `There is no measurement ${unknown.join(', ')}.\n\n${usage}` : usage)
  process.exitCode = unknown.length > 0 ? 2 : 0
} else await main(values.quick === true, positionals)

async function main(quick: boolean, chosen: readonly string[]): Promise<void> {
  const rows: Row[] = []
  await using server = await startServer()
  const say = (text: string): void => void process.stderr.write(process.stderr.isTTY ? `\r${text.padEnd(60)}` : `${text}\n`)
  for (const one of measurements.filter(({ id }) => chosen.length === 0 || chosen.includes(id)))
    rows.push(...(await one.run({ server, runs: quick ? 3 : 11, say })))
  if (process.stderr.isTTY) process.stderr.write(`\r${' '.repeat(60)}\r`)
  const machine = await describeMachine()
  console.log(`${machine}\n\n${tableLines(columns, rows).join('\n')}`)
  await save(rows, machine)
}

function number(value: number, unit: string): string {
  return `${value < 10 ? value.toFixed(2) : Math.round(value)} ${unit}`
}

async function describeMachine(): Promise<string> {
  const qemu = execFileSync('qemu-system-x86_64', ['--version'], { encoding: 'utf8' }).split('\n', 1)[0] ?? ''
  const cpu = os.cpus()[0]?.model ?? 'unknown processor'
  return `${os.cpus().length} × ${cpu}, ${Math.round(os.totalmem() / 1024 ** 3)} GiB, Linux ${os.release()}, ${qemu}, ${await acceleratorOf()}, Node ${process.version}`
}

async function save(rows: readonly Row[], machine: string): Promise<void> {
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { cwd: root, encoding: 'utf8' }).trim()
  const date = new Date().toISOString()
  const directory = path.join(root, 'bench', 'results')
  await mkdir(directory, { recursive: true })
  await writeFile(
    path.join(directory, 'latest.json'),
    `${JSON.stringify(
      rows.map((row) => ({ ...row, machine, commit, date })),
      null,
      2,
    )}\n`,
  )
}
