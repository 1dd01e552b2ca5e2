// What a history says of each instance, as events of instance-rules.ts.

import { overlap, type Call, type Content, type SeenInstance } from './history.ts'
import type { InstanceEvent, InstanceHappening, Phase } from './instance-rules.ts'
import { refusalOf, type Refusal } from './refusals.ts'
import { isMaking, targetOf, type Survey, type Told } from './survey.ts'

const unseen: Content = { memory: '?', disk: '?' }

/** States that an instance passes through while a call is carried out, besides those before and after it (docs/states.md). */
const momentsOf: Partial<Record<Call['operation']['kind'], readonly string[]>> = {
  create: ['Created', 'Initializing', 'Stopped'],
  start: ['Created', 'Initializing', 'Stopped'],
  stop: ['Shutdown'],
  standby: ['Paused'],
  restore: ['Paused', 'Initializing'],
  remove: ['Shutdown', 'Stopped'],
  snapshot: ['Paused'],
  fork: ['Paused', 'Created', 'Initializing', 'Stopped', 'Standby', 'Running'],
  forkSnapshot: ['Paused', 'Created', 'Initializing', 'Stopped', 'Standby', 'Running'],
  restoreSnapshot: ['Paused', 'Created', 'Initializing', 'Stopped', 'Standby', 'Running'],
}

export function instanceEvents(survey: Survey): ReadonlyMap<string, readonly Told<InstanceEvent>[]> {
  const events = new Map([...survey.instances.keys()].map((id) => [id, new Array<Told<InstanceEvent>>()] as const))
  const tell = (id: string, call: Call, happening: InstanceHappening, optional = false): void => {
    events.get(id)?.push({ ...happening, sent: call.sent, answered: call.answered, call, ...(optional ? { optional } : {}) })
  }
  const changes = changesOf(survey)
  const moments = (id: string, call: Call): ReadonlySet<string> =>
    new Set(
      (changes.get(id) ?? [])
        .filter((one) => one !== call && overlap(one, call))
        .flatMap(({ operation }) => momentsOf[operation.kind] ?? []),
    )
  const isLeaving = (id: string, call: Call): boolean =>
    (changes.get(id) ?? []).some((one) => one.operation.kind === 'remove' && overlap(one, call))
  const tellSeen = (call: Call, { id, state }: SeenInstance): void => tell(id, call, { what: 'seen', state, moments: moments(id, call) })

  for (const call of survey.history) {
    const { operation, answer } = call
    const subject = 'instance' in operation ? operation.instance : undefined
    if (answer.outcome === 'lost') {
      if (operation.kind === 'write')
        tell(operation.instance, call, { what: 'write', to: operation.to, text: operation.text, before: undefined }, true)
    } else if (answer.outcome === 'refused') {
      if (subject !== undefined)
        for (const happening of refused(call, refusalOf(operation, answer), isLeaving(subject, call))) tell(subject, call, happening)
    } else {
      if (subject !== undefined) for (const happening of done(call, survey)) tell(subject, call, happening)
      if (isMaking(call) && answer.said.instance !== undefined)
        tell(answer.said.instance.id, call, appearance(call, answer.said.instance, survey))
      if (answer.said.instance !== undefined) tellSeen(call, answer.said.instance)
      if (answer.said.instances !== undefined) tellList(call, answer.said.instances, survey, tellSeen, tell)
    }
  }
  return events
}

/** Successful calls that change an instance, or make it, by its id. */
function changesOf({ history, instances }: Survey): ReadonlyMap<string, readonly Call[]> {
  const changes = new Map([...instances].map(([id, { made }]): [string, Call[]] => [id, [made]]))
  for (const call of history)
    if (call.answer.outcome === 'done' && 'instance' in call.operation && momentsOf[call.operation.kind] !== undefined)
      changes.get(call.operation.instance)?.push(call)
  return changes
}

/** Each instance in the list is seen; one that is not there, though it may have been, is missing. */
function tellList(
  call: Call,
  listed: readonly SeenInstance[],
  { instances }: Survey,
  tellSeen: (call: Call, seen: SeenInstance) => void,
  tell: (id: string, call: Call, happening: InstanceHappening) => void,
): void {
  for (const seen of listed) tellSeen(call, seen)
  const ids = new Set(listed.map(({ id }) => id))
  for (const [id, { made, removed }] of instances)
    if (!ids.has(id) && made.sent < call.answered && (removed?.answered ?? Number.POSITIVE_INFINITY) > call.sent)
      tell(id, call, { what: 'missing' })
}

function appearance({ operation }: Call, { id, state }: SeenInstance, { snapshots, beginningOf, contentOf }: Survey): InstanceHappening {
  if (operation.kind === 'create') return { what: 'appear', phase: 'Booting', content: { memory: '', disk: '' } }
  const phase = phaseOf(state)
  const snapshot = operation.kind === 'forkSnapshot' ? snapshots.get(operation.snapshot) : undefined
  const content = operation.kind === 'forkSnapshot' ? contentOf(operation.snapshot) : beginningOf(id)
  // What boots, or has yet to, begins with an empty memory.
  return { what: 'appear', phase, content: phase === 'Stopped' || snapshot?.kind === 'Stopped' ? { ...content, memory: '' } : content }
}

function phaseOf(state: string): Phase {
  if (state === 'Running' || state === 'Standby' || state === 'Stopped') return state
  return state === 'Initializing' ? 'Booting' : 'absent'
}

function done({ operation, answer }: Call, { snapshots, beginningOf, contentOf }: Survey): readonly InstanceHappening[] {
  if (answer.outcome !== 'done') return []
  const { said } = answer
  switch (operation.kind) {
    case 'start':
    case 'stop':
    case 'standby':
    case 'restore':
      return [{ what: operation.kind, ok: true }]
    case 'remove':
    case 'update':
      return [{ what: operation.kind }]
    case 'read':
      return said.content === undefined ? [] : [{ what: 'read', content: said.content }]
    case 'write':
      return [{ what: 'write', to: operation.to, text: operation.text, before: said.before }]
    case 'snapshot':
      return [{ what: 'snapshot', of: operation.of, ok: true, content: contentOf(said.snapshot?.id ?? '') }]
    case 'fork': {
      const became = phaseOf(said.instance?.state ?? '')
      if (became !== 'Running' && became !== 'Standby' && became !== 'Stopped') return []
      const content = beginningOf(said.instance?.id ?? '')
      return [{ what: 'fork', fromRunning: operation.fromRunning, ok: true, became, asked: operation.target, content }]
    }
    case 'restoreSnapshot': {
      const snapshot = snapshots.get(operation.snapshot)
      if (snapshot === undefined) return []
      const became = targetOf(snapshot, operation.target)
      const content = contentOf(operation.snapshot)
      const cold = became === 'Stopped' || snapshot.kind === 'Stopped'
      return [{ what: 'restoreSnapshot', ok: true, became, content: cold ? { ...content, memory: '' } : content }]
    }
    default:
      return []
  }
}

/** What a refusal says of the instance. */
function refused({ operation }: Call, refusal: Refusal, leaving: boolean): readonly InstanceHappening[] {
  if (refusal === 'missing-instance') return [{ what: 'missing' }]
  if (refusal !== 'state') return [{ what: 'update' }] // it was there
  switch (operation.kind) {
    case 'start':
    case 'stop':
    case 'standby':
    case 'restore':
      return [{ what: operation.kind, ok: false }]
    case 'read':
    case 'write':
      return [{ what: 'notRunning', leaving }]
    case 'snapshot':
      return [{ what: 'snapshot', of: operation.of, ok: false, content: unseen }]
    case 'fork':
      return [{ what: 'fork', fromRunning: operation.fromRunning, ok: false, became: 'Stopped', asked: operation.target, content: unseen }]
    case 'restoreSnapshot':
      return [{ what: 'restoreSnapshot', ok: false, became: 'Stopped', content: unseen }]
    default:
      return []
  }
}
