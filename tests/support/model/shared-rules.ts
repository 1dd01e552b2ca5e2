// What instances share, as one caller alone would see it: a name, a snapshot, a volume. Pure.

import type { Timed } from './history.ts'
import type { Rules } from './linearize.ts'

/** A name of an instance, or of a snapshot among those of one instance. `holder` is an id. */
export type NameEvent = Timed &
  (
    | { readonly what: 'take' | 'free'; readonly holder: string }
    /** Refused as taken; `moment`: another call of that time may have held it for a while. */
    | { readonly what: 'refused'; readonly moment: boolean }
  )

export const nameRules: Rules<string, NameEvent> = {
  initial: '',
  step(holder, event) {
    switch (event.what) {
      case 'take':
        return holder === '' ? [event.holder] : []
      case 'free':
        return holder === event.holder ? [''] : []
      case 'refused':
        return holder !== '' || event.moment ? [holder] : []
      default:
        return event satisfies never
    }
  },
  isLook: ({ what }) => what === 'refused',
}

export type SnapshotEvent = Timed & { readonly what: 'appear' | 'used' | 'remove' | 'missing' }

export const snapshotRules: Rules<'absent' | 'there' | 'gone', SnapshotEvent> = {
  initial: 'absent',
  step(state, { what }) {
    switch (what) {
      case 'appear':
        return state === 'absent' ? ['there'] : []
      case 'used':
        return state === 'there' ? ['there'] : []
      case 'remove':
        return state === 'there' ? ['gone'] : []
      case 'missing':
        return state === 'there' ? [] : [state]
      default:
        return what satisfies never
    }
  },
  isLook: ({ what }) => what === 'used' || what === 'missing',
}

export interface VolumeState {
  readonly there: boolean
  /** Ids of instances, in order. */
  readonly writers: readonly string[]
  readonly readers: readonly string[]
  readonly snapshots: readonly string[]
}

export type VolumeEvent = Timed &
  (
    | { readonly what: 'appear' | 'remove' | 'missing' }
    | { readonly what: 'attach' | 'detach'; readonly instance: string; readonly readOnly: boolean }
    | { readonly what: 'refer' | 'forget'; readonly snapshot: string }
    | { readonly what: 'seen'; readonly writers: readonly string[]; readonly readers: readonly string[]; readonly moment: boolean }
    /** Refused as used by others; `moment` as for names. */
    | { readonly what: 'refused'; readonly wanted: 'name' | 'read' | 'write' | 'remove'; readonly moment: boolean }
  )

export const volumeRules: Rules<VolumeState, VolumeEvent> = {
  initial: { there: false, writers: [], readers: [], snapshots: [] },
  step(state, event) {
    const { there, writers, readers } = state
    switch (event.what) {
      case 'appear':
        return there ? [] : [{ ...state, there: true }]
      case 'remove':
        return there && isFree(state) ? [{ ...state, there: false }] : []
      case 'missing':
        return there ? [] : [state]
      case 'attach':
        if (!there || isRefused(state, event.readOnly ? 'read' : 'write')) return []
        return [event.readOnly ? { ...state, readers: plus(readers, event.instance) } : { ...state, writers: [event.instance] }]
      case 'detach':
        return [
          event.readOnly ? { ...state, readers: minus(readers, event.instance) } : { ...state, writers: minus(writers, event.instance) },
        ]
      case 'refer':
        return there ? [{ ...state, snapshots: plus(state.snapshots, event.snapshot) }] : []
      case 'forget':
        return [{ ...state, snapshots: minus(state.snapshots, event.snapshot) }]
      case 'seen':
        return there && (event.moment || (isEqual(writers, event.writers) && isEqual(readers, event.readers))) ? [state] : []
      case 'refused':
        return event.moment || isRefused(state, event.wanted) ? [state] : []
      default:
        return event satisfies never
    }
  },
  isLook: ({ what }) => what === 'seen' || what === 'missing' || what === 'refused',
}

function isRefused(state: VolumeState, wanted: 'name' | 'read' | 'write' | 'remove'): boolean {
  switch (wanted) {
    case 'name':
      return state.there
    case 'read':
      return state.writers.length > 0
    case 'write':
      return !isFree(state)
    case 'remove':
      return !isFree(state)
    default:
      return wanted satisfies never
  }
}

function isFree({ writers, readers, snapshots }: VolumeState): boolean {
  return writers.length + readers.length + snapshots.length === 0
}

function plus(ids: readonly string[], id: string): readonly string[] {
  return [...ids, id].toSorted()
}

function minus(ids: readonly string[], id: string): readonly string[] {
  return ids.filter((one) => one !== id)
}

function isEqual(one: readonly string[], other: readonly string[]): boolean {
  return one.length === other.length && one.every((id, at) => id === other[at])
}
