// Why a call was refused, from its answer's code and words. What is `unexpected` has no reason that the rules know.

import type { Answer, Operation } from './history.ts'

export type Refusal =
  /** The state of the instance forbids it. */
  | 'state'
  /** The name of the new instance, snapshot or volume is taken. */
  | 'name'
  /** The instance, snapshot or volume is not there. */
  | 'missing-instance'
  | 'missing-snapshot'
  | 'missing-volume'
  /** A volume is used by others, or still used. */
  | 'volume'
  /** The instance writes to a volume. */
  | 'writable'
  /** A snapshot of another instance, or a state that its kind does not allow. */
  | 'target'
  | 'unexpected'

export function refusalOf({ kind }: Operation, { code, message }: Extract<Answer, { readonly outcome: 'refused' }>): Refusal {
  switch (code) {
    case 'not_found':
      return missing(message)
    case 'name_conflict':
      return kind === 'create' || kind === 'fork' || kind === 'forkSnapshot' ? 'name' : 'unexpected'
    case 'already_exists':
      return kind === 'createVolume' ? 'name' : 'unexpected'
    case 'invalid_state':
      return stateful.has(kind) ? 'state' : 'unexpected'
    case 'conflict':
      return conflictOf(kind, message)
    case 'not_supported':
      return (kind === 'snapshot' || kind === 'fork') && message.includes('writes to the volume') ? 'writable' : 'unexpected'
    case 'invalid_request':
      return kind === 'restoreSnapshot' || kind === 'forkSnapshot' ? 'target' : 'unexpected'
    default:
      return 'unexpected'
  }
}

const stateful: ReadonlySet<Operation['kind']> = new Set([
  'start',
  'stop',
  'standby',
  'restore',
  'fork',
  'restoreSnapshot',
  'read',
  'write',
])

function missing(message: string): Refusal {
  if (/^(there is no|the) snapshot/.test(message)) return 'missing-snapshot'
  if (/^(there is no|the) volume/.test(message)) return 'missing-volume'
  return /^(there is no|the) instance/.test(message) ? 'missing-instance' : 'unexpected'
}

function conflictOf(kind: Operation['kind'], message: string): Refusal {
  if (kind === 'snapshot') return message.includes('has the name') ? 'name' : 'state'
  if (kind === 'create' || kind === 'fork' || kind === 'forkSnapshot' || kind === 'removeVolume')
    return message.startsWith('the volume') ? 'volume' : 'unexpected'
  return 'unexpected'
}
