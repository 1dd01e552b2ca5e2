// What clients asked of a server and what it answered, in the order of one clock. Made by clients.ts, judged by check.ts.

export type Target = 'Running' | 'Standby' | 'Stopped'
export type Part = 'memory' | 'disk'

export interface VolumeUse {
  readonly volume: string
  readonly readOnly: boolean
}

/** Instances and snapshots by id; names are names. */
export type Operation =
  | { readonly kind: 'create'; readonly name: string; readonly volumes: readonly VolumeUse[] }
  | { readonly kind: 'start' | 'stop' | 'standby' | 'restore' | 'remove' | 'update' | 'get'; readonly instance: string }
  | { readonly kind: 'read'; readonly instance: string }
  | { readonly kind: 'write'; readonly instance: string; readonly to: Part; readonly text: string }
  | {
      readonly kind: 'fork'
      readonly instance: string
      readonly name: string
      readonly fromRunning: boolean
      readonly target: Target | undefined
    }
  | { readonly kind: 'snapshot'; readonly instance: string; readonly of: 'Standby' | 'Stopped'; readonly name: string }
  | { readonly kind: 'restoreSnapshot'; readonly instance: string; readonly snapshot: string; readonly target: Target | undefined }
  | { readonly kind: 'forkSnapshot'; readonly snapshot: string; readonly name: string; readonly target: Target | undefined }
  | { readonly kind: 'getSnapshot' | 'removeSnapshot'; readonly snapshot: string }
  | { readonly kind: 'createVolume' | 'removeVolume'; readonly volume: string }
  | { readonly kind: 'list' | 'listSnapshots' | 'listVolumes' }

/** What a guest has in memory and on disk. */
export interface Content {
  readonly memory: string
  readonly disk: string
}

/** By what a guest can be told from every other. */
export interface Identity {
  readonly instance: string
  readonly hostname: string
  readonly random: string
  readonly machineId: string
  readonly mac: string
}

export interface SeenInstance {
  readonly id: string
  readonly name: string
  readonly state: string
}

export interface SeenSnapshot {
  readonly id: string
  readonly name?: string | null | undefined
  readonly kind: 'Standby' | 'Stopped'
  readonly source_instance_id: string
}

export interface SeenVolume {
  readonly id: string
  readonly attachments?: readonly { readonly instance_id: string; readonly readonly: boolean }[] | undefined
}

/** What the answer said, as far as anybody here is interested. */
export type Answer =
  /** Status below 400. */
  | { readonly outcome: 'done'; readonly said: Said }
  | { readonly outcome: 'refused'; readonly status: number; readonly code: string; readonly message: string }
  /** A command in a guest whose end nobody saw: it may have done its work or not. */
  | { readonly outcome: 'lost'; readonly message: string }

export interface Said {
  readonly instance?: SeenInstance
  readonly snapshot?: SeenSnapshot
  readonly instances?: readonly SeenInstance[]
  readonly snapshots?: readonly SeenSnapshot[]
  readonly volumes?: readonly SeenVolume[]
  readonly content?: Content & { readonly identity?: Identity }
  /** What a write found. */
  readonly before?: string
}

/** The times are positions in the order of all that was sent and answered. */
export interface Timed {
  readonly sent: number
  readonly answered: number
}

export interface Call extends Timed {
  readonly client: string
  readonly operation: Operation
  readonly answer: Answer
  /** The first look into a fork, which nobody else knows of yet. */
  readonly first?: true
}

/** True if neither was over when the other began. */
export function overlap(one: Timed, other: Timed): boolean {
  return one.sent < other.answered && other.sent < one.answered
}

/** One line for people; of lists, what they say of the subject, if one is given. */
export function describe({ client, operation, sent, answered, answer }: Call, subject?: string): string {
  const { kind, ...details } = operation
  const words = Object.values(details).map((value) => (typeof value === 'string' ? value : JSON.stringify(value)))
  return `[${sent}–${answered}] ${client}: ${[kind, ...words].join(' ')} → ${outcomeOf(answer, subject)}`
}

function outcomeOf(answer: Answer, subject: string | undefined): string {
  switch (answer.outcome) {
    case 'done':
      return `done ${JSON.stringify(subject === undefined ? answer.said : about(subject, answer.said))}`
    case 'refused':
      return `${answer.status} ${answer.code}: ${answer.message}`
    case 'lost':
      return `lost: ${answer.message}`
    default:
      return answer satisfies never
  }
}

function about(subject: string, { instances, snapshots, volumes, ...rest }: Said): object {
  const of = (listed: readonly { readonly id: string }[] | undefined): unknown =>
    listed === undefined ? undefined : (listed.find(({ id }) => id === subject) ?? 'not listed')
  return { ...rest, instances: of(instances), snapshots: of(snapshots), volumes: of(volumes) }
}
