// How long an instance has been in each phase of its life, as the record keeps it. Pure. A phase is what the record says of its run; moments inside of operations
// (Paused, Shutdown) belong to the phase around them.

import { z } from 'zod'
import type { InstanceView } from '../api/schemas/instance.ts'
import { timestamp } from '../api/schemas/common.ts'

const phaseName = z.enum(['created', 'initializing', 'running', 'standby', 'stopped'])

export const phasesRecord = z
  .object({
    current: phaseName,
    since: timestamp,
    /** In milliseconds, without what the current one has lasted; absent: never. */
    pastMs: z.partialRecord(phaseName, z.int().nonnegative()).readonly(),
  })
  .readonly()

export type Phases = z.infer<typeof phasesRecord>

export function firstPhase(current: Phases['current'], since: string = new Date().toISOString()): Phases {
  return { current, since, pastMs: {} }
}

/** What the phase hangs on. */
interface Run {
  readonly process: unknown
  readonly runningSince: string | null
}

function phaseOf({ process, runningSince }: Run, holdsMemory: boolean): Phases['current'] {
  if (process !== null) return runningSince === null ? 'initializing' : 'running'
  return holdsMemory ? 'standby' : 'stopped'
}

/** The phases of a record that was just changed. One that never had a VMM is still being created. */
export function afterChange(record: Run & { readonly phases: Phases }, holdsMemory: boolean, nowMs: number): Phases {
  const { phases } = record
  const next = phaseOf(record, holdsMemory)
  if (next === phases.current || (phases.current === 'created' && record.process === null)) return phases
  return { current: next, since: new Date(nowMs).toISOString(), pastMs: lastedMs(phases, nowMs) }
}

function lastedMs({ current, since, pastMs }: Phases, nowMs: number): Phases['pastMs'] {
  return { ...pastMs, [current]: (pastMs[current] ?? 0) + Math.max(0, nowMs - Date.parse(since)) }
}

export function phaseViewOf(
  phases: Phases,
  nowMs: number,
): Pick<InstanceView, 'current_phase' | 'current_phase_since' | 'phase_durations_ms'> {
  return { current_phase: phases.current, current_phase_since: phases.since, phase_durations_ms: lastedMs(phases, nowMs) }
}

/** Of a record from before phases were kept: the one that it is in, as far as it tells; what was before is not known. */
export function phasesOfOlder(record: Readonly<Record<string, unknown>>): Phases {
  const text = (...fields: readonly string[]): string => {
    const [first] = fields.flatMap((field) => (typeof record[field] === 'string' ? [record[field]] : []))
    return first ?? new Date(0).toISOString()
  }
  if (record['process'] === null) return firstPhase(record['savedMemory'] === null ? 'stopped' : 'standby', text('stoppedAt', 'createdAt'))
  return firstPhase(record['runningSince'] === null ? 'initializing' : 'running', text('runningSince', 'startedAt', 'createdAt'))
}
