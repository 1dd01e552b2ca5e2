// The checks that read the sources without running them, each one "test" of the run: shell, lint, format, unused code, dependencies, types.

import { execFileSync } from 'node:child_process'
import { oneFailed, onePassed, runCommand, sum, type Outcome } from './outcome.ts'

interface Check {
  readonly name: string
  readonly argv: readonly string[]
}

export async function runChecks(): Promise<Outcome> {
  const outcomes: Outcome[] = []
  for (const check of [shellCheck(), ...sourceChecks]) {
    const started = performance.now()
    const ok = (await runCommand(check.argv)) === 0
    console.log(`${ok ? '✔' : '✖'} ${check.name} (${Math.round(performance.now() - started)} ms)`)
    outcomes.push(ok ? onePassed : oneFailed)
  }
  return sum(outcomes)
}

const sourceChecks: readonly Check[] = [
  { name: 'oxlint: house rules, import directions, floating promises', argv: ['oxlint', '--deny-warnings'] },
  { name: 'oxfmt: one format (npm run format repairs it)', argv: ['oxfmt', '--check'] },
  { name: 'knip: no unused file, export or dependency', argv: ['knip'] },
  { name: 'dependencies: licences and install scripts', argv: ['node', 'scripts/check-dependencies.ts'] },
  { name: 'tsc: types', argv: ['tsc', '--noEmit'] },
]

// Every tracked file that a shell runs, found by its first line, so that a new script cannot be forgotten; with -x it follows what they source.
function shellCheck(): Check {
  const scripts = execFileSync('git', ['grep', '-I', '-l', '-E', '^#!(/usr/bin/env bash|/bin/bash|/bin/sh)$'], { encoding: 'utf8' })
  return { name: 'shellcheck: shell scripts', argv: ['shellcheck', '-x', ...scripts.trim().split('\n')] }
}
