// The event log of each instance: what was done, why, how long each step took, what failed. One JSON object a line, beside the other logs;
// API, command line and dashboard read the same lines.

import { EventEmitter } from 'node:events'
import { appendFileSync } from 'node:fs'
import path from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { IdentityStep } from '../agent/contract.ts'
import type { InstanceEvent } from '../api/events.ts'
import { instanceFiles, type DataLayout } from '../files/layout.ts'
import { isMissing } from '../files/tree.ts'
import { messageOf, type StepEvent } from '../platform/flow.ts'
import { sayPlan, type Restarts, type Supervised } from './restart-policy.ts'

export class EventLog {
  readonly #layout: DataLayout
  readonly #log: Logger
  /** What is still to be written, by instance. */
  readonly #unwritten = new Map<string, { lines: string[]; readonly written: Promise<void> }>()
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

  /** Something was decided about starting the instance again by itself, or was done about it. */
  restart(id: string, { attempts, nextAttemptAt, blockedReason }: Restarts, message: string): void {
    this.#add(id, { time: now(), type: 'restart', message, attempts, next_attempt_at: nextAttemptAt, blocked_reason: blockedReason })
  }

  /** What the record plans, if there is anything to say of it. */
  restartPlan(id: string, record: Supervised): void {
    const words = sayPlan(record)
    if (words !== undefined) this.restart(id, record.restarts, words)
  }

  /** Checks have changed what is known of the program's health. */
  health(id: string, status: string, message: string): void {
    this.#add(id, { time: now(), type: 'health', status, message })
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
        ...(one.warning === undefined ? {} : { warning: one.warning }),
        ...(one.note === undefined ? {} : { note: one.note }),
      })
  }

  /** Calls back for each event of every instance until the result is disposed of. */
  subscribe(listener: (id: string, event: InstanceEvent) => void): Disposable {
    this.#emitter.on('event', listener)
    return { [Symbol.dispose]: () => this.#emitter.off('event', listener) }
  }

  /** Resolves when everything that was reported of an instance is in its file. */
  async written(id: string): Promise<void> {
    await this.#unwritten.get(id)?.written
  }

  #add(id: string, event: InstanceEvent): void {
    const line = `${JSON.stringify(event)}\n`
    const waiting = this.#unwritten.get(id)
    if (waiting === undefined) this.#unwritten.set(id, { lines: [line], written: this.#write(id) })
    else waiting.lines.push(line)
    this.#emitter.emit('event', id, event)
  }

  /** What comes at once is written together. A flow reports a dozen steps: through Node's threads each write would cost nine times as much processor time (measured, November 2026). */
  async #write(id: string): Promise<void> {
    await nextTurn()
    const lines = this.#unwritten.get(id)?.lines ?? []
    this.#unwritten.delete(id)
    try {
      appendFileSync(path.join(this.#layout.instance(id), instanceFiles.events), lines.join(''))
    } catch (error) {
      // Events of an instance that is not committed yet, or gone already, have no file; any other failure must not fail the flow.
      if (!isMissing(error)) this.#log.warn({ instance: id, error: messageOf(error) }, 'an event could not be written')
    }
  }
}

function now(): string {
  return new Date().toISOString()
}

function rounded(ms: number): number {
  return Math.round(ms * 100) / 100
}
