// Every flow that changes something on disk is broken at each of its steps, in every way, on a real server with stand-in machines. The steps are
// those that the flows go through when nothing breaks: no list of them is kept anywhere. What must hold afterwards is in matrix/run.ts.

import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import path from 'node:path'
import { after, test, type TestContext } from 'node:test'
import { hasHostNetwork } from '../support/host-network.ts'
import { isWhole } from '../support/scale.ts'
import { breakFlow, record, type Fault } from './matrix/run.ts'
import { guestScenarios, scenarios } from './matrix/scenarios.ts'
import type { Scenario } from './matrix/scenario.ts'
import { isWanted, Stage } from './matrix/stage.ts'
import { OutcomeTable } from './matrix/table.ts'

/** In memory if there is room: what a disk does is looked at by the other tests of the matrix. */
const memory = process.env['HYPEMAN_TEST_MEMORY']
const below = memory === undefined ? undefined : await mkdtemp(path.join(memory, 'steps-'))
const stage = new Stage('stand-ins', below)
const table = new OutcomeTable()
after(async () => {
  console.log(`\n${table.toString()}\n`)
  await stage[Symbol.asyncDispose]()
  if (below !== undefined) await rm(below, { recursive: true })
})

/** Places in the source that name a step that was gone through. */
const sites = new Set<string>()

for (const scenario of scenarios) test(scenario.name, (t) => breakEverywhere(t, scenario))

async function breakEverywhere(t: TestContext, scenario: Scenario): Promise<void> {
  const reports = (await record(await stage.world(), scenario)).filter(({ kind }) => kind === 'step')
  for (const { site } of reports) if (site !== undefined) sites.add(site)
  const steps = [...new Set(reports.map(({ what }) => what))]
  assert.ok(steps.length > 0, 'a flow has steps')
  for (const step of steps) {
    const outcomes = new Map<string, string>()
    for (const [label, at] of faultsAt(step, isWhole || isTurn(steps, step), step === steps.at(-1))) {
      if (at.what === 'vmm' && !guestScenarios.includes(scenario)) continue
      const fault = { ...at, once: at.what === 'eio', afterAll: label.endsWith('after') && step === steps.at(-1) }
      if (!isWanted(`${scenario.name} | ${step} | ${label}`)) continue
      await t.test(`${step}: ${label}`, async () => {
        outcomes.set(label, await strike(scenario, fault))
      })
    }
    table.add(scenario.name, step, outcomes)
  }
}

/**
 * Every fault, or the two that tell most. A disk that fails before a step is a step that was never begun, so that nothing else is thrown there; to be killed after
 * a step is to be killed before the next one, so that it is tried after the last one only.
 */
function faultsAt(step: string, all: boolean, isLast: boolean): readonly (readonly [label: string, fault: Fault])[] {
  const fault = (what: Fault['what'], when: 'before' | 'after'): readonly [string, Fault] => [
    `${what} ${when}`,
    { at: { step, when }, what, lasting: false },
  ]
  const cheap = [fault('throw', 'after'), fault('enospc', 'before')]
  if (!all) return cheap
  if (!isWhole) return [...cheap, fault('kill', 'after'), fault('vmm', 'before')]
  const killed = [fault('kill', 'before'), ...(isLast ? [fault('kill', 'after')] : [])]
  return [...cheap, fault('eio', 'before'), fault('vmm', 'before'), ...killed]
}

/** In a run of a part a flow is killed where it becomes valid: at its commit, or at its last step. */
function isTurn(steps: readonly string[], step: string): boolean {
  return step === (steps.find((one) => /\/(?:commit|confirm)$/.test(one)) ?? steps.at(-1))
}

async function strike(scenario: Scenario, fault: Fault): Promise<string> {
  try {
    const { struck, verdict } = await breakFlow(await stage.world(), scenario, fault)
    if (struck !== undefined) return verdict
    // A VMM can be ended only while there is one; every other fault must have come.
    assert.equal(fault.what, 'vmm', 'the fault never came')
    return 'no VMM'
  } catch (error) {
    throw await stage.explain(error)
  }
}

/**
 * Digests are made in the background and of large files only, which the guests here have none of: src/snapshots/keeper.test.ts is about that. Templates and
 * forks that are loaded ahead are switched off here, since they are made in the background: tests/faults/templates.test.ts and tests/integration/spares.test.ts are about those. Telemetry is told of steps, and has none.
 */
const elsewhere = [
  'src/telemetry/**',
  'src/snapshots/keeper.ts',
  'src/instances/template-make.ts',
  'src/instances/template-use.ts',
  'src/instances/spare-make.ts',
]

const incomplete = !isWanted('')
  ? 'only some cases were asked for'
  : hasHostNetwork
    ? false
    : 'without root there are no devices of the host to go through their steps'

test('the matrix goes through every step that the source names', { skip: incomplete }, () => {
  const named = globSync('src/**/*.ts', { exclude: ['**/*.test.ts', 'src/platform/flow.ts', ...elsewhere] }).flatMap(stepsIn)
  assert.ok(named.length > 50, 'steps are found in the source')
  assert.deepEqual(
    named.filter((site) => !sites.has(site)),
    [],
    'steps that no scenario goes through; add one in tests/faults/matrix',
  )
})

/** `file:line` of each call of `step`. */
function stepsIn(file: string): string[] {
  return readFileSync(file, 'utf8')
    .split('\n')
    .flatMap((text, at) => (/(?<![.\w])step\((?!id: string)/.test(text) && !text.includes('function') ? [`${file}:${at + 1}`] : []))
}
