// Runs test files under node:test in a temporary directory of their own and counts: tests, machines booted, and what was left behind.

import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statfsSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import path from 'node:path'
import type { TestCounts } from './count-reporter.ts'
import { clearLeftovers, findLeftovers } from './leftovers.ts'
import { nothing, oneFailed, onePassed, runCommand, sum, type Outcome } from './outcome.ts'

export interface NodeTestOptions {
  readonly files: readonly string[]
  /** How many files may run at a time. */
  readonly concurrency: number
  /** After how many milliseconds a single test has failed. */
  readonly timeoutMs: number
  /** Added to the tests' environment. */
  readonly env?: Readonly<Record<string, string>>
}

export interface NodeTestOutcome extends Outcome {
  readonly vmsBooted: number
}

export const unitTests = { concurrency: availableParallelism(), timeoutMs: 60_000 } as const
/** A booting guest keeps a core busy under emulation: half of the cores boot, the rest tests them. */
export const vmTests = { concurrency: Math.max(1, Math.floor(availableParallelism() / 2)), timeoutMs: 300_000 } as const
/** Tests that do a part of their work in the usual run (tests/support/scale.ts) do the whole of it. */
export const wholeTests = { concurrency: availableParallelism(), timeoutMs: 1_800_000, env: { HYPEMAN_WHOLE_TESTS: '1' } } as const

/** Smallest room in memory that is used. */
const MEMORY_BYTES = 2 * 1024 ** 3

export async function runNodeTests(options: NodeTestOptions): Promise<NodeTestOutcome> {
  if (options.files.length === 0) return { ...nothing, vmsBooted: 0 }
  // Short, since sockets lie below it and their paths may have no more than 107 bytes.
  const run = mkdtempSync(path.join(tmpdir(), 'hm-'))
  const inMemory = memoryDirectory()
  const bookkeeping = mkdtempSync(path.join(tmpdir(), 'hm-run-'))
  const countsFile = path.join(bookkeeping, 'counts')
  const vmCountFile = path.join(bookkeeping, 'vms')
  try {
    const exitCode = await runCommand([...nodeTestCommand(options, countsFile), ...options.files], {
      env: {
        TMPDIR: run,
        HYPEMAN_TEST_RUN: run,
        ...(inMemory === undefined ? {} : { HYPEMAN_TEST_MEMORY: inMemory }),
        HYPEMAN_VM_COUNT_FILE: vmCountFile,
        NODE_COMPILE_CACHE: path.resolve('node_modules/.cache/compiled'),
        ...options.env,
      },
    })
    const tidy = await checkLeftovers(run, inMemory)
    return { ...sum([readCounts(countsFile, exitCode), tidy]), vmsBooted: countLines(vmCountFile) }
  } finally {
    for (const directory of [bookkeeping, inMemory]) if (directory !== undefined) rmSync(directory, { recursive: true, force: true })
  }
}

/** Where tests may keep what need not lie on a disk; undefined where there is no such place, or it is small, as in a container. */
function memoryDirectory(): string | undefined {
  const place = '/dev/shm'
  if (!existsSync(place)) return undefined
  const { bavail, bsize } = statfsSync(place)
  return bavail * bsize < MEMORY_BYTES ? undefined : mkdtempSync(path.join(place, 'hm-'))
}

function nodeTestCommand(options: NodeTestOptions, countsFile: string): string[] {
  return [
    process.execPath,
    '--test',
    `--test-concurrency=${options.concurrency}`,
    `--test-timeout=${options.timeoutMs}`,
    // A test that hangs has failed at its limit; what it still waits for must not keep the run from ending.
    '--test-force-exit',
    '--test-reporter=spec',
    '--test-reporter-destination=stdout',
    `--test-reporter=${path.join(import.meta.dirname, 'count-reporter.ts')}`,
    `--test-reporter-destination=${countsFile}`,
  ]
}

// No counts, or a failed run that counted no failure: the runner itself broke, which is a failure too.
function readCounts(file: string, exitCode: number): Outcome {
  const text = existsSync(file) ? readFileSync(file, 'utf8').trim() : ''
  if (text === '') {
    console.log(`✖ node --test ended with ${exitCode} before it had counted its tests`)
    return oneFailed
  }
  const counts = JSON.parse(text) as TestCounts
  const failed = counts.failed + counts.cancelled
  if (exitCode !== 0 && failed === 0) console.log(`✖ node --test ended with ${exitCode} although no test failed`)
  return { passed: counts.passed + counts.todo, failed: exitCode !== 0 ? Math.max(1, failed) : failed, skipped: counts.skipped }
}

async function checkLeftovers(run: string, inMemory: string | undefined): Promise<Outcome> {
  const leftovers = await findLeftovers(run, AbortSignal.timeout(5_000))
  const files = inMemory === undefined ? [] : readdirSync(inMemory).map((name) => path.join(inMemory, name))
  for (const what of [...leftovers.map((leftover) => leftover.what), ...files]) console.log(`✖ left behind: ${what}`)
  await clearLeftovers(run, leftovers)
  const isTidy = leftovers.length === 0 && files.length === 0
  if (isTidy) console.log('✔ nothing is left behind: no process, mount, loop device, network device, rule or file')
  return isTidy ? onePassed : oneFailed
}

function countLines(file: string): number {
  return existsSync(file)
    ? readFileSync(file, 'utf8')
        .split('\n')
        .filter((line) => line !== '').length
    : 0
}
