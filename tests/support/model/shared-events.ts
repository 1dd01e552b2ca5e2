// What a history says of names, snapshots and volumes, as events of shared-rules.ts.

import { overlap, type Call, type SeenVolume, type VolumeUse } from './history.ts'
import { refusalOf, type Refusal } from './refusals.ts'
import type { NameEvent, SnapshotEvent, VolumeEvent } from './shared-rules.ts'
import { isMaking, type Survey, type Told } from './survey.ts'

type Events<Event> = Map<string, Told<Event>[]>

function tell<Event>(events: Events<Event>, key: string, event: Told<Event>): void {
  events.set(key, [...(events.get(key) ?? []), event])
}

/** When a call was, and which it is. */
function at(call: Call): Told<{ readonly sent: number; readonly answered: number }> {
  return { sent: call.sent, answered: call.answered, call }
}

function reasonOf({ operation, answer }: Call): Refusal | undefined {
  return answer.outcome === 'refused' ? refusalOf(operation, answer) : undefined
}

export function nameEvents(survey: Survey): Events<NameEvent> {
  const events: Events<NameEvent> = new Map()
  for (const [id, { name, made, removed }] of survey.instances) {
    tell(events, name, { ...at(made), what: 'take', holder: id })
    if (removed !== undefined) tell(events, name, { ...at(removed), what: 'free', holder: id })
  }
  for (const call of survey.history)
    if (isMaking(call) && 'name' in call.operation && reasonOf(call) === 'name')
      tell(events, call.operation.name, { ...at(call), what: 'refused', moment: survey.making(call, call.operation.name) })
  return events
}

/** By source and name. */
export function snapshotNameEvents({ snapshots, history }: Survey): Events<NameEvent> {
  const events: Events<NameEvent> = new Map()
  for (const [id, { source, name, made, removed }] of snapshots) {
    if (name === '') continue
    tell(events, `${source}/${name}`, { ...at(made), what: 'take', holder: id })
    if (removed !== undefined) tell(events, `${source}/${name}`, { ...at(removed), what: 'free', holder: id })
  }
  for (const call of history) {
    const { operation } = call
    if (operation.kind !== 'snapshot' || reasonOf(call) !== 'name') continue
    const moment = history.some(
      ({ operation: other, ...one }) =>
        other !== operation &&
        other.kind === 'snapshot' &&
        other.instance === operation.instance &&
        other.name === operation.name &&
        overlap(one, call),
    )
    tell(events, `${operation.instance}/${operation.name}`, { ...at(call), what: 'refused', moment })
  }
  return events
}

export function snapshotEvents({ history, snapshots }: Survey): Events<SnapshotEvent> {
  const events: Events<SnapshotEvent> = new Map()
  for (const [id, { made, removed }] of snapshots) {
    tell(events, id, { ...at(made), what: 'appear' })
    if (removed !== undefined) tell(events, id, { ...at(removed), what: 'remove' })
  }
  for (const call of history) {
    const { operation, answer } = call
    if ('snapshot' in operation && reasonOf(call) === 'missing-snapshot') tell(events, operation.snapshot, { ...at(call), what: 'missing' })
    if ('snapshot' in operation && operation.kind !== 'removeSnapshot' && answer.outcome === 'done')
      tell(events, operation.snapshot, { ...at(call), what: 'used' })
    const listed = answer.outcome === 'done' ? answer.said.snapshots : undefined
    if (listed === undefined) continue
    const ids = new Set(listed.map(({ id }) => id))
    for (const [id, { made, removed }] of snapshots) {
      const mayBeThere = made.sent < call.answered && (removed?.answered ?? Number.POSITIVE_INFINITY) > call.sent
      if (ids.has(id)) tell(events, id, { ...at(call), what: 'used' })
      else if (mayBeThere) tell(events, id, { ...at(call), what: 'missing' })
    }
  }
  return events
}

export function volumeEvents(survey: Survey): Events<VolumeEvent> {
  const events: Events<VolumeEvent> = new Map()
  for (const [id, { volumes, made, removed }] of survey.instances)
    for (const { volume, readOnly } of volumes) {
      tell(events, volume, { ...at(made), what: 'attach', instance: id, readOnly })
      if (removed !== undefined) tell(events, volume, { ...at(removed), what: 'detach', instance: id, readOnly })
    }
  for (const [id, { volumes, made, removed }] of survey.snapshots)
    for (const { volume } of volumes) {
      tell(events, volume, { ...at(made), what: 'refer', snapshot: id })
      if (removed !== undefined) tell(events, volume, { ...at(removed), what: 'forget', snapshot: id })
    }
  for (const call of survey.history) {
    tellOfVolume(events, call, survey)
    tellOfUse(events, call, survey)
    const listed = call.answer.outcome === 'done' ? call.answer.said.volumes : undefined
    if (listed === undefined) continue
    for (const volume of events.keys()) if (!listed.some(({ id }) => id === volume)) tell(events, volume, { ...at(call), what: 'missing' })
    for (const seen of listed)
      tell(events, seen.id, { ...at(call), what: 'seen', ...attachmentsOf(seen), moment: isUsed(survey, call, seen.id) })
  }
  return events
}

/** Making and removing a volume. */
function tellOfVolume(events: Events<VolumeEvent>, call: Call, survey: Survey): void {
  const { operation, answer } = call
  if (operation.kind !== 'createVolume' && operation.kind !== 'removeVolume') return
  const { kind, volume } = operation
  const reason = reasonOf(call)
  const moment = isUsed(survey, call, volume)
  if (answer.outcome === 'done') tell(events, volume, { ...at(call), what: kind === 'createVolume' ? 'appear' : 'remove' })
  if (reason === 'name') tell(events, volume, { ...at(call), what: 'refused', wanted: 'name', moment })
  if (reason === 'volume') tell(events, volume, { ...at(call), what: 'refused', wanted: 'remove', moment })
  if (reason === 'missing-volume') tell(events, volume, { ...at(call), what: 'missing' })
}

/** New instances that did not get a volume. The answer names it. */
function tellOfUse(events: Events<VolumeEvent>, call: Call, survey: Survey): void {
  const { answer } = call
  const reason = reasonOf(call)
  if (!isMaking(call) || answer.outcome !== 'refused' || (reason !== 'volume' && reason !== 'missing-volume')) return
  for (const { volume, readOnly } of volumesWanted(call, survey).filter((one) => answer.message.includes(one.volume)))
    if (reason === 'missing-volume') tell(events, volume, { ...at(call), what: 'missing' })
    else tell(events, volume, { ...at(call), what: 'refused', wanted: readOnly ? 'read' : 'write', moment: isUsed(survey, call, volume) })
}

function volumesWanted({ operation }: Call, { instances, snapshots }: Survey): readonly VolumeUse[] {
  if (operation.kind === 'create') return operation.volumes
  if ('snapshot' in operation) return snapshots.get(operation.snapshot)?.volumes ?? []
  return 'instance' in operation ? (instances.get(operation.instance)?.volumes ?? []) : []
}

/** True if another call of that time has to do with the volume. */
function isUsed(survey: Survey, call: Call, volume: string): boolean {
  return survey.history.some(
    (one) =>
      one !== call &&
      overlap(one, call) &&
      (('volume' in one.operation && one.operation.volume === volume) || volumesWanted(one, survey).some((use) => use.volume === volume)),
  )
}

function attachmentsOf({ attachments = [] }: SeenVolume): { readonly writers: readonly string[]; readonly readers: readonly string[] } {
  const ids = (readOnly: boolean): readonly string[] =>
    attachments
      .filter((one) => one.readonly === readOnly)
      .map((one) => one.instance_id)
      .toSorted()
  return { writers: ids(false), readers: ids(true) }
}
