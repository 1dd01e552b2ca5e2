// The guest agent's own checks: gofmt, go vet and go test; the first two also for the guest that stands in for it. Each check and each Go test counts as one.

import { spawn } from 'node:child_process'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { nothing, oneFailed, onePassed, runCommand, sum, type Outcome } from './outcome.ts'

const guest = path.resolve('guest')
const standIn = path.resolve('tests/support/stand-in-hypervisor/vmm')

export async function runGuestTests(): Promise<Outcome> {
  const checks = [await goCheck(guest), await goCheck(standIn)]
  return sum([...checks.flat(), await goTest()])
}

async function goCheck(cwd: string): Promise<Outcome[]> {
  const formatted = (await runCommand(['bash', '-c', 'files=$(gofmt -l .); echo -n "$files" >&2; test -z "$files"'], { cwd })) === 0
  console.log(`${formatted ? '✔' : '✖'} gofmt ${path.relative('.', cwd)}`)
  const vetted = (await runCommand(['go', 'vet', './...'], { cwd })) === 0
  console.log(`${vetted ? '✔' : '✖'} go vet ${path.relative('.', cwd)}`)
  return [formatted ? onePassed : oneFailed, vetted ? onePassed : oneFailed]
}

interface GoTestEvent {
  readonly Action: string
  readonly Package: string
  readonly Test?: string
  readonly Output?: string
}

/** Runs `go test -json`: prints a line for each test, and the output of those that fail. */
async function goTest(): Promise<Outcome> {
  const child = spawn('go', ['test', '-json', './...'], { cwd: guest, stdio: ['ignore', 'pipe', 'inherit'] })
  const exited = Promise.withResolvers<number>()
  child.once('error', exited.reject)
  child.once('close', (code) => exited.resolve(code ?? 1))
  const output = new Map<string, string>()
  const outcomes: Outcome[] = []
  for await (const line of createInterface({ input: child.stdout })) {
    const event = parseEvent(line)
    if (event === undefined) console.log(line)
    else outcomes.push(take(event, output))
  }
  const total = sum(outcomes)
  // A package that does not compile fails without any test of it having run.
  return (await exited.promise) !== 0 && total.failed === 0 ? sum([total, oneFailed]) : total
}

function parseEvent(line: string): GoTestEvent | undefined {
  return line.startsWith('{') ? (JSON.parse(line) as GoTestEvent) : undefined
}

function take(event: GoTestEvent, output: Map<string, string>): Outcome {
  const name = `${event.Package} ${event.Test ?? ''}`.trim()
  if (event.Action === 'output') output.set(name, (output.get(name) ?? '') + (event.Output ?? ''))
  if (event.Action === 'fail') console.log(output.get(name) ?? '')
  if (event.Test === undefined) return nothing
  switch (event.Action) {
    case 'pass':
      console.log(`✔ ${name}`)
      return onePassed
    case 'fail':
      console.log(`✖ ${name}`)
      return oneFailed
    case 'skip':
      console.log(`﹣ ${name}: ${(output.get(name) ?? '').trim()}`)
      return { ...nothing, skipped: 1 }
    default:
      return nothing
  }
}
