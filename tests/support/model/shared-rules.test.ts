import assert from 'node:assert/strict'
import { test } from 'node:test'
import { linearize, type Rules } from './linearize.ts'
import { nameRules, snapshotRules, volumeRules, type NameEvent, type SnapshotEvent, type VolumeEvent } from './shared-rules.ts'

/** One call after the other. */
function inOrder<State, Event extends { readonly sent: number; readonly answered: number }>(
  rules: Rules<State, Event>,
  happenings: readonly Omit<Event, 'sent' | 'answered'>[],
): boolean {
  const events = happenings.map((happening, at) => ({ ...happening, sent: 2 * at, answered: 2 * at + 1 }) as Event)
  return linearize(rules, events).explained
}

test('a name is held by one at a time, and refused only while it is held', () => {
  const names = (
    ...events: (NameEvent extends infer One ? (One extends NameEvent ? Omit<One, 'sent' | 'answered'> : never) : never)[]
  ): boolean => inOrder(nameRules, events as never)
  const [take, free] = [{ what: 'take', holder: 'a' } as const, { what: 'free', holder: 'a' } as const]
  assert.ok(names(take, { what: 'refused', moment: false }, free, { what: 'take', holder: 'b' }))
  assert.ok(!names(take, { what: 'take', holder: 'b' }))
  assert.ok(!names(take, free, { what: 'refused', moment: false }))
  assert.ok(names(take, free, { what: 'refused', moment: true }))
})

test('a snapshot is there from its making to its removal', () => {
  const snapshots = (...whats: SnapshotEvent['what'][]): boolean =>
    inOrder(
      snapshotRules,
      whats.map((what) => ({ what })),
    )
  assert.ok(snapshots('missing', 'appear', 'used', 'remove', 'missing'))
  assert.ok(!snapshots('appear', 'missing'))
  assert.ok(!snapshots('appear', 'remove', 'used'))
  assert.ok(!snapshots('appear', 'remove', 'remove'))
})

test('a volume has one writer or many readers, and stays as it is while an instance or a snapshot needs it', () => {
  const volumes = (...events: object[]): boolean => inOrder<unknown, VolumeEvent>(volumeRules as never, events as never)
  const appear = { what: 'appear' }
  const attach = (instance: string, readOnly: boolean): object => ({ what: 'attach', instance, readOnly })
  const refused = (wanted: string): object => ({ what: 'refused', wanted, moment: false })
  assert.ok(volumes(appear, attach('a', true), attach('b', true), refused('write'), refused('remove')))
  assert.ok(!volumes(appear, attach('a', true), refused('read')))
  assert.ok(!volumes(appear, attach('a', false), attach('b', true)))
  assert.ok(!volumes(appear, attach('a', true), attach('b', false)))
  assert.ok(!volumes(appear, { what: 'refer', snapshot: 's' }, { what: 'remove' }))
  assert.ok(!volumes(appear, { what: 'refer', snapshot: 's' }, attach('a', false)))
  assert.ok(volumes(appear, { what: 'refer', snapshot: 's' }, attach('a', true), refused('write')))
  assert.ok(volumes(appear, { what: 'refer', snapshot: 's' }, { what: 'forget', snapshot: 's' }, { what: 'remove' }, { what: 'missing' }))
  assert.ok(!volumes(appear, attach('a', true), { what: 'seen', writers: [], readers: [], moment: false }))
})
