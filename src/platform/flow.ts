// Named steps: each lifecycle flow is a straight function of steps with an undo armed before each act.
// From the names come events, timings and fault injection. Not a workflow engine: no retries, no graph.

import type { Logger } from 'pino'
import { diskError } from './disk-error.ts'

/** What happened in one step of a flow; `ms` is wall time in milliseconds. */
export interface StepEvent {
  readonly flow: string
  readonly step: string
  readonly ms: number
  readonly error?: string
  /** Why it took longer than it can. */
  readonly note?: string | undefined
}

/** Injects faults by step id (`flow/step`), before or after the act. Only tests and `HYPEMAN_FAULTS` make one. */
export interface FaultPlan {
  before(stepId: string): Promise<void> | void
  after(stepId: string): Promise<void> | void
}

export interface FlowContext {
  /** Name of the flow, for example `snapshot.create`. */
  readonly flow: string
  /** Aborts the act of a step, never an undo. */
  readonly signal: AbortSignal
  readonly onStep: (event: StepEvent) => void
  readonly faults?: FaultPlan | undefined
}

/** A flow under way; disposing it says that it has ended. Whoever begins one holds it with `using`. */
export type OpenFlow = FlowContext & Disposable

/** Sees every flow of the process from outside, for metrics and traces. */
export interface FlowWatcher {
  /** A flow has begun; what comes back is told of its steps, as they end, and of its end. `about` has ids and names of what the flow is about. */
  begin(flow: string, about: FlowSubject): FlowWatch
}

export interface FlowWatch {
  step(event: StepEvent): void
  end(): void
}

/** What a flow is about: ids and names by what they are of, for example `{ instanceId: '…' }`. */
export type FlowSubject = Readonly<Record<string, string>>

const watchers = new Set<FlowWatcher>()

/** Shows the flows that begin from now on to the watcher, until the result is disposed of. A watcher may not throw. */
export function watchFlows(watcher: FlowWatcher): Disposable {
  watchers.add(watcher)
  return { [Symbol.dispose]: () => void watchers.delete(watcher) }
}

/** Begins a flow. */
export function openFlow(context: FlowContext, about: FlowSubject): OpenFlow {
  const watches = [...watchers].map((watcher) => watcher.begin(context.flow, about))
  return {
    ...context,
    onStep(event) {
      context.onStep(event)
      for (const watch of watches) watch.step(event)
    },
    [Symbol.dispose]() {
      for (const watch of watches) watch.end()
    },
  }
}

/** What a flow needs that no instance's event log tells of: its steps go to the server's log. */
export interface FlowHost {
  readonly log: Logger
  readonly faults?: FaultPlan | undefined
}

/** A flow on something else than an instance; `about` names it in the log. */
export function loggedFlow(
  { log, faults }: FlowHost,
  flow: string,
  about: FlowSubject,
  signal: AbortSignal = new AbortController().signal,
): OpenFlow {
  return openFlow({ flow, signal, faults, onStep: (event) => log.debug({ ...about, ...event }, 'step') }, about)
}

/** Runs one named step: checks the signal, consults the fault plan, times the act and reports it. */
export async function step<T>(context: FlowContext, name: string, act: () => Promise<T> | T): Promise<T> {
  context.signal.throwIfAborted()
  const id = `${context.flow}/${name}`
  const started = performance.now()
  try {
    await context.faults?.before(id)
    const result = await act()
    await context.faults?.after(id)
    context.onStep({ flow: context.flow, step: name, ms: performance.now() - started })
    return result
  } catch (error) {
    const told = explain(id, error)
    context.onStep({ flow: context.flow, step: name, ms: performance.now() - started, error: messageOf(told) })
    throw told
  }
}

/** Waits for steps that run at the same time; all have ended when the first failure, in the order given, is thrown. */
export async function together(steps: readonly Promise<unknown>[]): Promise<void> {
  for (const outcome of await Promise.allSettled(steps)) if (outcome.status === 'rejected') throw outcome.reason
}

/** Disk errors in words for people, also those that came while an earlier one was undone. */
function explain(id: string, error: unknown): unknown {
  if (error instanceof SuppressedError) return new SuppressedError(explain(id, error.error), explain(id, error.suppressed), error.message)
  return diskError(pathOf(error) ?? id, error)
}

function pathOf(error: unknown): string | undefined {
  return error instanceof Error && 'path' in error && typeof error.path === 'string' ? error.path : undefined
}

/** An error's message with those of its causes, outermost first. */
export function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  if (error instanceof SuppressedError) return `${messageOf(error.suppressed)} (then, while undoing: ${messageOf(error.error)})`
  if (error instanceof AggregateError && error.errors.length > 0) return error.errors.map(messageOf).join('; ')
  return error.cause === undefined ? error.message : `${error.message}: ${messageOf(error.cause)}`
}
