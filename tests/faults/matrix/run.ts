// Breaks a flow at one place, looks what became of it, and whether everything else is as it was and the flow works when it is asked for again.

import assert from 'node:assert/strict'
import { APIConnectionError, APIError } from '@onkernel/hypeman'
import { messageOf } from '../../../src/platform/flow.ts'
import type { Order, Report } from '../../support/fault-server/order.ts'
import type { Scenario, Verdict } from './scenario.ts'
import { inventory, LateFailure, Refused, type World } from './world.ts'

export interface Fault extends Pick<Order, 'at' | 'what' | 'lasting'> {
  /** The flow is not asked for again afterwards: it was after a fault of the same way. */
  readonly once?: boolean
  /** It comes when all is done: the flow has been done then, though its end could not be told. */
  readonly afterAll?: boolean
}

/** What breaks the server and what mends it. */
export interface Breaker {
  begin(world: World): void | Promise<void>
  /** Returns what was hit, in the server's words; undefined if nothing was. */
  end(world: World, ending: Ending): string | undefined | Promise<string | undefined>
}

/** How the flow ended for who asked for it. */
export type Ending = 'answered' | 'refused' | 'late' | 'crashed'

export interface Outcome {
  /** What was hit, in the server's words; undefined if nothing was. */
  readonly struck: string | undefined
  readonly ending: Ending
  readonly verdict: Verdict
}

/** Runs a flow without a fault; what it went through. */
export async function record(world: World, scenario: Scenario): Promise<readonly Report[]> {
  await scenario.prepare(world)
  world.faults.order({ at: 'nowhere', what: 'throw', lasting: false, spared: [] })
  await scenario.act(world)
  const reports = world.faults.rescind()
  assert.equal(await scenario.judge(world), 'done')
  await world.check()
  await scenario.clean(world)
  return reports
}

/** Breaks a flow. Everything that must hold afterwards is asserted here; what may differ is returned. */
export async function breakFlow(world: World, scenario: Scenario, fault: Fault, breaker: Breaker = ordered(fault)): Promise<Outcome> {
  await scenario.prepare(world)
  const before = await world.listing()
  const frozen = await freeze(world, scenario)
  await breaker.begin(world)
  const { ending, error } = await attempt(scenario, world)
  const struck = await breaker.end(world, ending)
  if (ending === 'crashed' || (fault.what === 'kill' && struck !== undefined)) {
    assert.equal(fault.what, 'kill', `the server ended by itself: ${String(error)}\n${await world.server.log()}`)
    await world.server.died()
    await world.server.restart()
  }
  const after = await world.listing()
  const frozenAfter = await freeze(world, scenario)
  const verdict = await scenario.judge(world)
  const story = `${verdict} after: ${ending}${error === undefined ? '' : ` (${messageOf(error)})`}`
  assert.ok(allowed(scenario, fault, struck, ending).includes(verdict), story)
  if (ending === 'refused' && struck !== undefined) checkWords(fault, error)
  if (verdict === 'as before' && ending !== 'answered') {
    assert.deepEqual(after, before, `what is listed after: ${story}`)
    assert.deepEqual(frozenAfter, frozen, `directories after: ${story}`)
  }
  if (mayLeave(fault, struck) && (await world.leftovers()).length > 0) await world.server.restart()
  await world.check()
  if (verdict !== 'done' && fault.once !== true) {
    await scenario.prepare(world)
    await scenario.act(world)
    assert.equal(await scenario.judge(world), 'done', 'when it is asked for again')
    await world.check()
  }
  await scenario.clean(world)
  return { struck, ending, verdict }
}

function ordered({ at, what, lasting }: Fault): Breaker {
  return {
    begin: (world) => world.faults.order({ at, what, lasting, spared: world.spared() }),
    end: (world) => world.faults.rescind().find((report) => report.kind === 'struck')?.what,
  }
}

async function attempt(scenario: Scenario, world: World): Promise<{ readonly ending: Ending; readonly error?: unknown }> {
  try {
    await scenario.act(world)
    return { ending: 'answered' }
  } catch (error) {
    if (error instanceof LateFailure) return { ending: 'late', error }
    if (error instanceof APIConnectionError || (error instanceof TypeError && error.message === 'fetch failed'))
      return { ending: 'crashed', error }
    return { ending: 'refused', error }
  }
}

/** What can't be removed goes when the server starts again. */
function mayLeave({ what, lasting }: Fault, struck = ''): boolean {
  return what !== 'kill' && (lasting || /drop-old|image\.(?:delete|collect)|^(?:rm|rename|sync) /.test(struck))
}

function allowed(scenario: Scenario, fault: Fault, struck: string | undefined, ending: Ending): readonly Verdict[] {
  const broken = fault.what === 'eio' && fault.lasting ? (scenario.broken ?? []) : []
  const also = fault.what === 'vmm' ? (scenario.vmm ?? []) : []
  if (struck !== undefined && fault.what === 'kill') return ['as before', 'done', ...(scenario.crashed ?? [])]
  switch (ending) {
    case 'answered':
      return ['done', ...also.filter((verdict) => verdict !== 'stopped')]
    case 'refused':
      return ['as before', ...(fault.afterAll === true ? ['done' as const] : []), ...(scenario.refused ?? []), ...also, ...broken]
    case 'late':
      return ['as before', ...(scenario.late ?? []), ...also]
    case 'crashed':
      return []
    default:
      return ending satisfies never
  }
}

/** Who was refused is told what is wrong with the disk. */
function checkWords({ what }: Fault, error: unknown): void {
  if (what !== 'enospc' && what !== 'eio') return
  const answer = error instanceof Refused ? error : error instanceof APIError ? (error.error as Partial<Refused> | undefined) : undefined
  if (answer === undefined) return // what a tool tells is its own
  assert.match(
    answer.message ?? '',
    what === 'enospc' ? /no space left/i : /the disk under .* fails \(EIO\)/,
    'the answer says what is wrong',
  )
  assert.equal(answer.code, what === 'enospc' ? 'storage_full' : 'storage_unsuitable')
}

async function freeze(world: World, { frozen = [] }: Scenario): Promise<unknown> {
  const found: Record<string, unknown> = {}
  for (const name of frozen)
    if ((await world.stateOf(name)) !== 'absent') found[name] = Object.fromEntries(inventory(await world.directoryOf(name)))
  return found
}
