// Judges a history: what each answer means for each thing that it is about, and whether an order of all calls explains every answer. Returns what
// can't be explained, in words; nothing if all is well.

import { describe, overlap, type Answer, type Call } from './history.ts'
import { instanceEvents } from './instance-events.ts'
import { instanceRules } from './instance-rules.ts'
import { linearize, type Rules } from './linearize.ts'
import { refusalOf } from './refusals.ts'
import { nameEvents, snapshotEvents, snapshotNameEvents, volumeEvents } from './shared-events.ts'
import { nameRules, snapshotRules, volumeRules } from './shared-rules.ts'
import { surveyOf, type Survey, type Told } from './survey.ts'

export function check(history: readonly Call[]): readonly string[] {
  const survey = surveyOf(history)
  return [
    ...survey.contradictions,
    ...unexpectedAnswers(history, survey),
    ...strangersIn(history, survey),
    ...judged('instance', instanceEvents(survey), instanceRules),
    ...judged('name', nameEvents(survey), nameRules),
    ...judged('snapshot', snapshotEvents(survey), snapshotRules),
    ...judged('snapshot name', snapshotNameEvents(survey), nameRules),
    ...judged('volume', volumeEvents(survey), volumeRules),
  ]
}

function judged<State, Event extends { readonly sent: number; readonly answered: number }>(
  what: string,
  things: ReadonlyMap<string, readonly Told<Event>[]>,
  rules: Rules<State, Event>,
): string[] {
  return [...things].flatMap(([id, events]) => {
    const explanation = linearize<State, Told<Event>>(rules, events)
    if (explanation.explained) return []
    const { state, next } = explanation
    const around = events.filter((event) => next.some((one) => event.answered > one.sent - 60 && event.sent < one.answered + 60))
    const lines = [...new Set(around.map(({ call }) => call))]
      .toSorted((one, other) => one.sent - other.sent)
      .map((call) => describe(call, id))
    const stuck = [...new Set(next.map(({ call }) => `[${call.sent}–${call.answered}] ${call.operation.kind}`))].join(', ')
    return [
      `${what} ${id}: nothing explains what follows ${JSON.stringify(state)}; next should be one of ${stuck}\n  ${lines.join('\n  ')}`,
    ]
  })
}

/** Refusals that no rule gives a reason for, and those that only the request itself decides. */
function unexpectedAnswers(history: readonly Call[], survey: Survey): string[] {
  return history.flatMap((call) => {
    if (call.answer.outcome === 'lost')
      return mayBeLost(call, survey) ? [] : [`a command was lost although its guest went on: ${describe(call)}`]
    const impossible = impossibleTarget(call, survey)
    const writes = writesToVolume(call, survey)
    if (call.answer.outcome === 'done') return impossible || writes ? [`this should have been refused: ${describe(call)}`] : []
    const refusal = refusalOf(call.operation, call.answer)
    if (refusal === 'unexpected') return [`there is no reason for this answer: ${describe(call)}`]
    if ((refusal === 'target' && !impossible) || (refusal === 'writable' && !writes)) return [`refused without reason: ${describe(call)}`]
    return []
  })
}

/** A restore to what is not the instance's own, or a state that the kind does not allow. */
function impossibleTarget({ operation }: Call, { snapshots }: Survey): boolean {
  if (operation.kind !== 'restoreSnapshot' && operation.kind !== 'forkSnapshot') return false
  const snapshot = snapshots.get(operation.snapshot)
  if (snapshot === undefined) return false
  if (operation.kind === 'restoreSnapshot' && snapshot.source !== operation.instance) return true
  return snapshot.kind === 'Stopped' && operation.target === 'Standby'
}

/** A copy of an instance that writes to a volume. */
function writesToVolume({ operation }: Call, { instances }: Survey): boolean {
  if (operation.kind !== 'snapshot' && operation.kind !== 'fork') return false
  return instances.get(operation.instance)?.volumes.some(({ readOnly }) => !readOnly) ?? false
}

/** Only a guest that another call ends takes a command with it. */
function mayBeLost(call: Call, { callsOn }: Survey): boolean {
  if (call.operation.kind !== 'read' && call.operation.kind !== 'write') return false
  return (callsOn.get(call.operation.instance) ?? []).some(
    (other) => ['stop', 'standby', 'remove'].includes(other.operation.kind) && overlap(call, other),
  )
}

/** Instances and snapshots in lists that nobody made, or whose making was not under way. */
function strangersIn(history: readonly Call[], survey: Survey): string[] {
  return history.flatMap((call) => {
    const { instances = [], snapshots = [] } = saidOf(call.answer)
    const strange = [
      ...instances.filter(({ id }) => !survey.instances.has(id)).filter(({ name }) => !survey.making(call, name)),
      ...snapshots.filter(({ id }) => !survey.snapshots.has(id)),
    ]
    return strange.map(({ id }) => `${id} is listed and nobody made it: ${describe(call)}`)
  })
}

function saidOf(answer: Answer): Extract<Answer, { readonly outcome: 'done' }>['said'] {
  return answer.outcome === 'done' ? answer.said : {}
}
