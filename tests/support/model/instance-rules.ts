// An instance as one caller alone would see it: docs/states.md as a machine, with what its guest has in memory and on disk. Pure.

import type { Content, Part, Target, Timed } from './history.ts'
import type { Rules } from './linearize.ts'

/** `Booting` is Initializing and becomes Running by itself, at any moment. */
export type Phase = 'absent' | 'Booting' | 'Running' | 'Stopped' | 'Standby' | 'gone'

export interface InstanceState extends Content {
  readonly phase: Phase
}

export type InstanceEvent = Timed & { readonly optional?: boolean } & InstanceHappening

/** Contents that nobody has seen yet begin with a question mark; nobody writes one. */
export type InstanceHappening =
  | { readonly what: 'appear'; readonly phase: Phase; readonly content: Content }
  /** `ok` is false where the answer was that the state forbids it. */
  | { readonly what: 'start' | 'stop' | 'standby' | 'restore'; readonly ok: boolean }
  | { readonly what: 'remove' | 'update' }
  | { readonly what: 'missing' }
  | { readonly what: 'snapshot'; readonly of: 'Standby' | 'Stopped'; readonly ok: boolean; readonly content: Content }
  | {
      readonly what: 'fork'
      readonly fromRunning: boolean
      readonly ok: boolean
      /** What the fork became, and what it had then. */
      readonly became: Target
      readonly asked: Target | undefined
      readonly content: Content
    }
  | { readonly what: 'restoreSnapshot'; readonly ok: boolean; readonly became: Target; readonly content: Content }
  /** The state in a list or answer; `moments` are states that other calls of that time pass through. */
  | { readonly what: 'seen'; readonly state: string; readonly moments: ReadonlySet<string> }
  | { readonly what: 'read'; readonly content: Content }
  | { readonly what: 'write'; readonly to: Part; readonly text: string; readonly before: string | undefined }
  /** A command was refused since the guest did not run; `leaving`: it was being removed at that time. */
  | { readonly what: 'notRunning'; readonly leaving: boolean }

const nothing: Content = { memory: '', disk: '' }

export const instanceRules: Rules<InstanceState, InstanceEvent> = {
  initial: { phase: 'absent', ...nothing },
  step: (state, event) => readings(state).flatMap((reading) => after(reading, event) ?? []),
  isLook: (event) => looks.has(event.what) || ('ok' in event && !event.ok),
}

const looks: ReadonlySet<InstanceHappening['what']> = new Set(['update', 'missing', 'snapshot', 'fork', 'seen', 'read', 'notRunning'])

/** A booting instance may have become Running by now. */
function readings(state: InstanceState): readonly InstanceState[] {
  return state.phase === 'Booting' ? [state, { ...state, phase: 'Running' }] : [state]
}

function after(state: InstanceState, event: InstanceHappening): InstanceState | undefined {
  const { phase } = state
  if (event.what === 'appear') return phase === 'absent' ? { phase: event.phase, ...event.content } : undefined
  if (event.what === 'missing') return exists(phase) ? undefined : state
  if (!exists(phase)) return undefined
  switch (event.what) {
    case 'start':
      return permitted(state, event.ok, phase === 'Stopped', { ...state, phase: 'Booting', memory: '' })
    case 'stop':
      return permitted(state, event.ok, phase !== 'Stopped', { ...state, phase: 'Stopped', memory: '' })
    case 'standby':
      return permitted(state, event.ok, phase === 'Running', { ...state, phase: 'Standby' })
    case 'restore':
      return permitted(state, event.ok, phase === 'Standby', { ...state, phase: 'Running' })
    case 'remove':
      return { ...state, phase: 'gone', ...nothing }
    case 'update':
      return state
    case 'snapshot':
      return afterSnapshot(state, event)
    case 'fork':
      return afterFork(state, event)
    case 'restoreSnapshot':
      return permitted(state, event.ok, phase === 'Stopped' || phase === 'Standby', { phase: event.became, ...event.content })
    case 'seen':
      return mayBeSeenAs(phase, event.state) || event.moments.has(event.state) ? state : undefined
    case 'read':
      return phase === 'Running' ? learned(state, event.content) : undefined
    case 'write':
      return phase === 'Running' ? written(state, event) : undefined
    case 'notRunning':
      return phase !== 'Running' || event.leaving ? state : undefined
    default:
      return event satisfies never
  }
}

function exists(phase: Phase): boolean {
  return phase !== 'absent' && phase !== 'gone'
}

/** A VMM that takes more than half a second to answer is shown as Unknown. */
function mayBeSeenAs(phase: Phase, seen: string): boolean {
  if (phase === 'Booting' || phase === 'Running') return seen === 'Unknown' || seen === (phase === 'Booting' ? 'Initializing' : 'Running')
  return seen === phase
}

function permitted(state: InstanceState, ok: boolean, legal: boolean, then: InstanceState): InstanceState | undefined {
  if (ok !== legal) return undefined
  return ok ? then : state
}

function afterSnapshot(state: InstanceState, event: InstanceHappening & { readonly what: 'snapshot' }): InstanceState | undefined {
  const { phase } = state
  const legal = event.of === 'Stopped' ? phase === 'Stopped' : phase === 'Running' || phase === 'Standby'
  return permitted(state, event.ok, legal, state) && (event.ok ? learned(state, event.content) : state)
}

function afterFork(state: InstanceState, event: InstanceHappening & { readonly what: 'fork' }): InstanceState | undefined {
  const { phase } = state
  const legal = phase === 'Stopped' || phase === 'Standby' || (phase === 'Running' && event.fromRunning)
  if (!event.ok) return permitted(state, false, legal, state)
  if (!legal || event.became !== (event.asked ?? phase)) return undefined
  // A fork of what is stopped, or one that stays so, has the disk alone.
  const shared = phase === 'Stopped' || event.became === 'Stopped' ? { ...event.content, memory: state.memory } : event.content
  return learned(state, shared)
}

function written(state: InstanceState, event: InstanceHappening & { readonly what: 'write' }): InstanceState | undefined {
  const { to, text, before = state[to] } = event
  return agree(state[to], before) ? { ...state, [to]: text } : undefined
}

/** The state, with what was not known of it; undefined if something else was known. */
function learned(state: InstanceState, { memory, disk }: Content): InstanceState | undefined {
  if (!agree(state.memory, memory) || !agree(state.disk, disk)) return undefined
  return { ...state, memory: isUnknown(state.memory) ? memory : state.memory, disk: isUnknown(state.disk) ? disk : state.disk }
}

function agree(one: string, other: string): boolean {
  return one === other || isUnknown(one) || isUnknown(other)
}

function isUnknown(text: string): boolean {
  return text.startsWith('?')
}
