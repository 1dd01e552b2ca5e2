// The event log of each instance: what was done, why, how long each step took, what failed. One JSON object a line, beside the other logs;
// API, command line and dashboard read the same lines.

import { EventEmitter } from 'node:events'
import { appendFile } from 'node:fs/promises'
import path from 'node:path'
import type { Logger } from 'pino'
import type { IdentityStep } from '../agent/contract.ts'
import type { InstanceEvent } from '../api/events.ts'
import { instanceFiles, type DataLayout } from '../files/layout.ts'
import { messageOf, type StepEvent } from '../platform/flow.ts'

export class EventLog {
  readonly #layout: DataLayout
  readonly #log: Logger
  /** Ends of the chains of appends, by instance: lines keep their order. */
  readonly #appends = new Map<string, Promise<void>>()
  readonly #emitter = new EventEmitter<{ event: [string, InstanceEvent] }>().setMaxListeners(0)

  constructor(layout: DataLayout, log: Logger) {
    this.#layout = layout
    this.#log = log
  }

  /** A step of a flow has ended, well or badly. */
  step(id: string, event: StepEvent): void {
    this.#add(id, {
      time: now(),
      type: 'step',
      flow: event.flow,
      step: event.step,
      ms: rounded(event.ms),
      ...(event.error === undefined ? {} : { error: event.error }),
      ...(event.note === undefined ? {} : { note: event.note }),
    })
  }

  /** The instance has reached a state. */
  state(id: string, state: string, message: string): void {
    this.#add(id, { time: now(), type: 'state', state, message })
  }

  /** The guest has taken, or failed to take, its identity. */
  identity(id: string, reason: 'boot' | 'fork' | 'restore', steps: readonly IdentityStep[]): void {
    for (const one of steps)
      this.#add(id, {
        time: now(),
        type: 'step',
        flow: `guest.${reason}`,
        step: one.name,
        ms: rounded(one.ms),
        ...(one.ok ? {} : { error: one.message ?? 'failed' }),
      })
  }

  /** Calls back for each event of every instance until the result is disposed of. */
  subscribe(listener: (id: string, event: InstanceEvent) => void): Disposable {
    this.#emitter.on('event', listener)
    return { [Symbol.dispose]: () => this.#emitter.off('event', listener) }
  }

  /** Resolves when everything that was reported of an instance is in its file. */
  async written(id: string): Promise<void> {
    await this.#appends.get(id)
  }

  #add(id: string, event: InstanceEvent): void {
    const file = path.join(this.#layout.instance(id), instanceFiles.events)
    const append = (this.#appends.get(id) ?? Promise.resolve())
      .then(() => appendFile(file, `${JSON.stringify(event)}\n`))
      .catch((error: NodeJS.ErrnoException) => {
        // Events of an instance that is not committed yet, or gone already, have no file; any other failure must not fail the flow.
        if (error.code !== 'ENOENT') this.#log.warn({ instance: id, error: messageOf(error) }, 'an event could not be written')
      })
      .finally(() => {
        if (this.#appends.get(id) === append) this.#appends.delete(id)
      })
    this.#appends.set(id, append)
    this.#emitter.emit('event', id, event)
  }
}

function now(): string {
  return new Date().toISOString()
}

function rounded(ms: number): number {
  return Math.round(ms * 100) / 100
}
