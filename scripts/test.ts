// Runs the parts of the test suite that are asked for, without arguments all but the last, and ends with the line "N passed, N failed".
// The set-up is done by scripts/test before this starts; what a part does is in scripts/testing/.

import { globSync } from 'node:fs'
import { runChecks } from './testing/checks.ts'
import { runGuestTests } from './testing/guest-tests.ts'
import { runNodeTests, unitTests, vmTests, wholeTests } from './testing/node-tests.ts'
import { nothing, oneFailed, sum, type Outcome } from './testing/outcome.ts'

const usual = ['lint', 'unit', 'guest', 'integration'] as const
const parts = [...usual, 'faults'] as const
type Part = (typeof parts)[number]

const vmTestFolders = 'tests/{integration,faults,model,e2e}/**/*.test.ts'
/** What does a part of its work in the usual run, and the whole in this one. */
const longTestFolders = 'tests/{faults/**/*,model/**/*,integration/fuzz}.test.ts'
const ignored = ['node_modules/**', '.assets/**', 'dist/**']

interface Report extends Outcome {
  readonly vmsBooted: number
}

async function main(args: readonly string[]): Promise<Outcome> {
  const asked = parts.filter((part) => args.includes(part))
  const patterns = args.filter((arg) => !parts.some((part) => part === arg))
  const reports: Report[] = []
  for (const part of asked.length > 0 ? asked : usual) {
    console.log(`\n── ${part} ──`)
    reports.push(await runPart(part, patterns))
  }
  const total = sum(reports)
  const vmsBooted = reports.reduce((count, report) => count + report.vmsBooted, 0)
  console.log(`\n${vmsBooted} virtual machines were booted; ${total.skipped} tests were skipped (each says why above).`)
  return total
}

async function runPart(part: Part, patterns: readonly string[]): Promise<Report> {
  switch (part) {
    case 'lint':
      return { ...(await runChecks()), vmsBooted: 0 }
    case 'guest':
      return { ...(await runGuestTests()), vmsBooted: 0 }
    case 'unit':
      return runNodeTests({ files: unitFiles(patterns), ...unitTests })
    case 'integration':
      return demandMachines(patterns, await runNodeTests({ files: testFiles(vmTestFolders, patterns), ...vmTests }))
    case 'faults':
      return demandMachines(patterns, await runNodeTests({ files: testFiles(longTestFolders, patterns), ...wholeTests }))
    default:
      return part satisfies never
  }
}

// Integration tests that booted nothing have shown nothing, unless somebody chose files that need none.
function demandMachines(patterns: readonly string[], report: Report): Report {
  if (patterns.length > 0 || report.passed === 0 || report.vmsBooted > 0) return report
  console.log('✖ the integration tests passed without booting one machine')
  return { ...sum([report, oneFailed]), vmsBooted: 0 }
}

function unitFiles(patterns: readonly string[]): string[] {
  const vmTestFiles = new Set(globSync(vmTestFolders))
  return testFiles('**/*.test.ts', patterns).filter((file) => !vmTestFiles.has(file))
}

/** Test files of a part, or those of them that lie below, or are named by, one of the patterns. */
function testFiles(glob: string, patterns: readonly string[]): string[] {
  const files = globSync(glob, { exclude: ignored }).toSorted()
  return patterns.length === 0 ? files : files.filter((file) => patterns.some((pattern) => file.startsWith(pattern)))
}

let result = nothing
try {
  result = await main(process.argv.slice(2))
} catch (error) {
  console.error(error)
  result = oneFailed
}
process.exitCode = result.failed > 0 || result.passed === 0 ? 1 : 0
console.log(`${result.passed} passed, ${result.failed} failed`)
