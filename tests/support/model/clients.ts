// Clients of a server that ask at random and at once; everything asked and answered goes into one history.

import { ApiError } from '../../../src/client/errors.ts'
import { createClient, type Client } from '../../../src/client/client.ts'
import { KeyedLock } from '../../../src/platform/keyed-lock.ts'
import type { TestServer } from '../server.ts'
import { chooseOperation, type Beliefs, type Limits } from './choose.ts'
import {
  describe,
  type Answer,
  type Call,
  type Content,
  type Identity,
  type Operation,
  type Part,
  type Said,
  type SeenInstance,
  type SeenSnapshot,
  type SeenVolume,
} from './history.ts'
import { seededRandom } from './random.ts'

/** How guests of one kind are made and looked into. A write tells what was there before, at the same instant, or nothing. */
export interface Guests {
  readonly body: { readonly image: string; readonly size: string; readonly vcpus: number; readonly overlay_size: string }
  read(server: TestServer, id: string, limitMs: number): Promise<Ran<Content & { readonly identity?: Identity }>>
  write(server: TestServer, id: string, to: Part, text: string, limitMs: number): Promise<Ran<string | undefined>>
  /** A write takes its time in the guest: one that a copy of the memory catches in the middle goes on in the copy too, so none is under way then. */
  readonly writesAlone: boolean
}

/** What a command gave, or the message it ended with instead. */
export type Ran<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly message: string }

/** An operation waits at most a minute for others on the same instance; what takes longer than this hangs, in milliseconds. */
const HANGS_MS = 90_000

const lookingOrCopying: ReadonlySet<Operation['kind']> = new Set(['read', 'write', 'snapshot', 'fork', 'standby'])

export class Clients {
  readonly history: Call[] = []
  readonly #server: TestServer
  readonly #client: Client
  readonly #guests: Guests
  readonly #limits: Limits
  readonly #writes = new KeyedLock()
  #time = 0
  #texts = 0
  readonly #instances = new Map<string, { readonly id: string; state: string }>()
  readonly #snapshots = new Map<string, { readonly id: string; readonly kind: 'Standby' | 'Stopped'; readonly source: string }>()
  readonly #gone = { instances: new Array<string>(), snapshots: new Array<string>() }

  constructor(server: TestServer, guests: Guests, limits: Limits) {
    this.#server = server
    this.#client = createClient({ baseUrl: server.url, token: () => server.token })
    this.#guests = guests
    this.#limits = limits
  }

  get beliefs(): Beliefs {
    return { instances: [...this.#instances.values()], snapshots: [...this.#snapshots.values()], gone: this.#gone }
  }

  /** One client asks so many things, one after the other. */
  async askAtRandom(name: string, seed: number, operations: number): Promise<void> {
    const random = seededRandom(seed)
    for (let count = 0; count < operations; count += 1)
      await this.ask(name, chooseOperation(random, this.beliefs, this.#limits, `${name}.${(this.#texts += 1)}`))
  }

  /** Asks and notes the answer. A fork is looked into before anybody else hears of it. */
  async ask(client: string, operation: Operation): Promise<Answer> {
    const answer = await this.#note(client, operation)
    const made = answer.outcome === 'done' ? answer.said.instance : undefined
    if (made?.state === 'Running' && (operation.kind === 'fork' || operation.kind === 'forkSnapshot'))
      await this.#note(client, { kind: 'read', instance: made.id }, true)
    this.#believe(operation, answer)
    return answer
  }

  async #note(client: string, operation: Operation, first = false): Promise<Answer> {
    using _apart = await this.#apart(operation)
    const sent = (this.#time += 1)
    const answer = await this.#send(operation).catch((error: unknown) => {
      if (error instanceof ApiError) return refusal(operation, error)
      throw new Error(`${client} got no answer: ${JSON.stringify(operation)}`, { cause: error })
    })
    this.history.push({ client, operation, answer, sent, answered: (this.#time += 1), ...(first ? { first } : {}) })
    return answer
  }

  /** Keeps writes of guests where they take their time apart from what copies the guest or looks at it. */
  async #apart(operation: Operation): Promise<Disposable | undefined> {
    if (!this.#guests.writesAlone || !('instance' in operation) || !lookingOrCopying.has(operation.kind)) return undefined
    return this.#writes.acquire(operation.instance, { waitMs: HANGS_MS, what: operation.instance, shared: operation.kind !== 'write' })
  }

  async #send(operation: Operation): Promise<Answer> {
    if (operation.kind === 'read') {
      const ran = await this.#guests.read(this.#server, operation.instance, HANGS_MS)
      return ran.ok ? done({ content: ran.value }) : inGuest(ran.message)
    }
    if (operation.kind === 'write') {
      const ran = await this.#guests.write(this.#server, operation.instance, operation.to, operation.text, HANGS_MS)
      if (!ran.ok) return inGuest(ran.message)
      return done(ran.value === undefined ? {} : { before: ran.value })
    }
    return done(await this.#request(operation, AbortSignal.timeout(HANGS_MS)))
  }

  async #request(operation: Exclude<Operation, { readonly kind: 'read' | 'write' }>, signal: AbortSignal): Promise<Said> {
    const { instances, snapshots, volumes } = this.#client
    const call = { signal }
    switch (operation.kind) {
      case 'create': {
        const used = operation.volumes.map((one, at) => ({ volume_id: one.volume, mount_path: `/mnt/${at}`, readonly: one.readOnly }))
        return { instance: seen(await instances.create({ ...this.#guests.body, name: operation.name, volumes: used }, call)) }
      }
      case 'start':
        return { instance: seen(await instances.start(operation.instance, {}, call)) }
      case 'stop':
      case 'standby':
      case 'restore':
      case 'get':
        return { instance: seen(await instances[operation.kind](operation.instance, call)) }
      case 'update':
        return { instance: seen(await instances.update(operation.instance, { ttl: '1h' }, call)) }
      case 'remove':
        await instances.delete(operation.instance, {}, call)
        return {}
      case 'fork': {
        const { name, fromRunning, target } = operation
        const body = { name, from_running: fromRunning, ...(target === undefined ? {} : { target_state: target }) }
        return { instance: seen(await instances.fork(operation.instance, body, call)) }
      }
      case 'snapshot':
        return { snapshot: seenSnapshot(await instances.snapshot(operation.instance, { kind: operation.of, name: operation.name }, call)) }
      case 'restoreSnapshot':
        return { instance: seen(await instances.restoreSnapshot(operation.instance, operation.snapshot, targetOf(operation), call)) }
      case 'forkSnapshot':
        return { instance: seen(await snapshots.fork(operation.snapshot, { name: operation.name, ...targetOf(operation) }, call)) }
      case 'getSnapshot':
        return { snapshot: seenSnapshot(await snapshots.get(operation.snapshot, call)) }
      case 'removeSnapshot':
        await snapshots.delete(operation.snapshot, call)
        return {}
      case 'createVolume':
        await volumes.create({ name: operation.volume, id: operation.volume, size_gb: 1 }, call)
        return {}
      case 'removeVolume':
        await volumes.delete(operation.volume, call)
        return {}
      case 'list':
        return { instances: (await instances.list({}, call)).map(seen) }
      case 'listSnapshots':
        return { snapshots: (await snapshots.list({}, call)).map(seenSnapshot) }
      case 'listVolumes':
        return { volumes: (await volumes.list({}, call)).map(seenVolume) }
      default:
        return operation satisfies never
    }
  }

  #believe(operation: Operation, answer: Answer): void {
    if (answer.outcome !== 'done') return
    const { instance, snapshot } = answer.said
    if (operation.kind === 'remove') {
      this.#instances.delete(operation.instance)
      remember(this.#gone.instances, operation.instance)
    } else if (instance !== undefined && !this.#gone.instances.includes(instance.id)) {
      const known = this.#instances.get(instance.id)
      if (known === undefined) this.#instances.set(instance.id, { id: instance.id, state: instance.state })
      else known.state = instance.state
    }
    if (operation.kind === 'removeSnapshot') {
      this.#snapshots.delete(operation.snapshot)
      remember(this.#gone.snapshots, operation.snapshot)
    } else if (operation.kind === 'snapshot' && snapshot !== undefined)
      this.#snapshots.set(snapshot.id, { id: snapshot.id, kind: operation.of, source: operation.instance })
  }

  /** The history so far, for people. */
  words(): string {
    return this.history.map((call) => describe(call)).join('\n')
  }
}

/** Late answers of calls that were under way may still come for what is gone. */
const REMEMBERED = 64

function remember(gone: string[], id: string): void {
  gone.push(id)
  if (gone.length > REMEMBERED) gone.shift()
}

function done(said: Said): Answer {
  return { outcome: 'done', said }
}

function refusal({ kind }: Operation, { status, code, message }: ApiError): Answer {
  if (code === 'guest_unreachable' && (kind === 'read' || kind === 'write')) return { outcome: 'lost', message }
  return { outcome: 'refused', status, code, message }
}

/** After the upgrade a refusal is only words: those of the same error that comes before it otherwise. */
function inGuest(message: string): Answer {
  if (message.includes('instance must be running')) return { outcome: 'refused', status: 409, code: 'invalid_state', message }
  if (/there is no instance/.test(message))
    return { outcome: 'refused', status: 404, code: 'not_found', message: message.replace(/^Error: /, '') }
  return { outcome: 'lost', message }
}

function targetOf({ target }: { readonly target: 'Running' | 'Standby' | 'Stopped' | undefined }): {
  target_state?: 'Running' | 'Standby' | 'Stopped'
} {
  return target === undefined ? {} : { target_state: target }
}

/** Of an answer, what anybody here is interested in. */
function seen({ id, name, state }: SeenInstance): SeenInstance {
  return { id, name, state }
}

function seenSnapshot({ id, name, kind, source_instance_id }: SeenSnapshot): SeenSnapshot {
  return { id, name, kind, source_instance_id }
}

function seenVolume({ id, attachments }: SeenVolume): SeenVolume {
  return { id, attachments }
}
