// npm run bench: what the product costs against the floor of bare QEMU, in the same run. `--quick` takes fewer runs; ids pick rows.

import { execFileSync } from 'node:child_process'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { acceleratorOf } from '../src/platform/accelerator.ts'
import { startServer } from '../tests/support/server.ts'
import { chartOf } from './chart.ts'
import type { Bench, Row } from './measure.ts'
import { knownIds, pick, type Picked } from './picks.ts'
import { reportOf, type Missing } from './report.ts'
import { mergeResults, parseResults, printResults, type Result } from './results.ts'
import { absent, measurements } from './rows.ts'

const root = path.join(import.meta.dirname, '..')
const resultsFile = path.join(root, 'bench', 'results', 'latest.json')
const chartFile = path.join(root, 'docs', 'benchmarks.svg')
const ids = knownIds(measurements, absent)
const usage = `Usage: npm run bench [-- [--quick] [--hour] [--chart] [ID]...]

Measures the rows with these ids, or all: ${ids.join(' ')}
Prints a table, replaces their numbers in bench/results/latest.json and draws docs/benchmarks.svg.

  --quick  fewer runs
  --hour   watch the idle server (S10) for an hour instead of a minute
  --chart  only draw, from the numbers that are there
`

const flag = { type: 'boolean', default: false } as const
const { values, positionals } = parseArgs({ allowPositionals: true, options: { quick: flag, hour: flag, chart: flag, help: flag } })
const interrupt = new AbortController()
const picked = pick(positionals, measurements, absent)
if (picked.unknown.length > 0) {
  process.stderr.write(`There is no row ${picked.unknown.join(', ')}.\n\n${usage}`)
  process.exitCode = 2
} else if (values.help) process.stdout.write(usage)
else if (values.chart) await draw(await storedResults())
else {
  try {
    await main(picked)
  } catch (error) {
    if (!interrupt.signal.aborted) throw error
    console.error(error === interrupt.signal.reason ? 'Interrupted.' : error)
    process.exitCode = 130
  }
}

async function main({ measurements: chosen, absent: unmeasurable, wants }: Picked): Promise<void> {
  const rows: Row[] = []
  const missing: Missing[] = unmeasurable.map(([id, reason]) => ({ id, reason }))
  // The second one ends the process at once, as ever.
  process.once('SIGINT', () => interrupt.abort(new Error('interrupted')))
  const say = (text: string): void => {
    interrupt.signal.throwIfAborted()
    process.stderr.write(process.stderr.isTTY ? `\r${text.padEnd(70)}` : `${text}\n`)
  }
  if (chosen.length > 0) {
    await using server = await startServer()
    const bench: Bench = {
      server,
      ...(values.quick ? { runs: 3, longRuns: 1, idleSeconds: 10 } : { runs: 11, longRuns: 3, idleSeconds: 60 }),
      ...(values.hour ? { idleSeconds: 3_600 } : {}),
      wants,
      say,
      leaveOut: (id, reason) => void missing.push({ id, reason }),
    }
    for (const { ids: made, run } of chosen) {
      try {
        rows.push(...(await run(bench)).filter(({ id }) => wants(id)))
      } catch (error) {
        interrupt.signal.throwIfAborted()
        // What was measured before it, and what comes after, is worth having.
        console.error(error)
        process.exitCode = 1
        for (const id of made.filter(wants))
          missing.push({ id, reason: `failed: ${error instanceof Error ? error.message : String(error)}` })
      }
    }
  }
  if (process.stderr.isTTY) process.stderr.write(`\r${' '.repeat(70)}\r`)
  const machine = await describeMachine()
  console.log(reportOf({ machine, rows, missing }))
  if (rows.length > 0) await save(rows, machine)
}

async function describeMachine(): Promise<string> {
  const qemu = execFileSync('qemu-system-x86_64', ['--version'], { encoding: 'utf8' }).split('\n', 1)[0] ?? ''
  const cpu = os.cpus()[0]?.model ?? 'unknown processor'
  return `${os.cpus().length} × ${cpu}, ${Math.round(os.totalmem() / 1024 ** 3)} GiB, Linux ${os.release()}, ${qemu}, ${await acceleratorOf()}, Node ${process.version}`
}

async function save(rows: readonly Row[], machine: string): Promise<void> {
  const origin = { machine, commit: commitHere(), date: new Date().toISOString() }
  const results = mergeResults(
    await storedResults(),
    rows.map((row) => ({ ...row, ...origin })),
    ids,
  )
  await mkdir(path.dirname(resultsFile), { recursive: true })
  await writeFile(resultsFile, printResults(results))
  await draw(results)
}

/** The commit that is measured; with a plus if the code is not what was committed. */
function commitHere(): string {
  const git = (...args: string[]): string => execFileSync('git', args, { cwd: root, encoding: 'utf8' }).trim()
  return git('rev-parse', '--short', 'HEAD') + (git('status', '--porcelain', 'src', 'guest', 'bench/*.ts') === '' ? '' : '+')
}

async function storedResults(): Promise<Result[]> {
  const text = await readFile(resultsFile, 'utf8').catch((error: unknown) => {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return '[]'
    throw error
  })
  return parseResults(text)
}

async function draw(results: readonly Result[]): Promise<void> {
  await writeFile(chartFile, await chartOf(results))
}
