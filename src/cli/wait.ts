// Waits with a person: until an instance runs, showing what it is at, or until its program has ended, showing its output.

import { ApiError, UnreachableError } from '../client/errors.ts'
import type { Instance, InstanceEvent, InstanceState } from '../client/client.ts'
import type { Session } from './context.ts'
import type { Progress } from './output/progress.ts'
import { milliseconds } from './output/text.ts'
import { write } from './terminal.ts'

/** How long one request holds; the next one goes on. */
const HOLD = '50s'
/** More lines than a log can have: all of it. */
const WHOLE_LOG = 1_000_000_000

/** States that lead to Running by themselves. */
const onTheWay: ReadonlySet<InstanceState> = new Set(['Created', 'Initializing'])

/** Resolves when the instance runs, or its program has already ended well. Rejects with the reason if it will not run. */
export async function whenRunning(session: Session, begun: Instance, progress: Progress): Promise<Instance> {
  const instance = await whenSettled(session, begun, progress)
  if (instance.state === 'Running' || instance.state === 'Standby' || instance.exit_code === 0) return instance
  throw didNotStayUp(instance)
}

/** Resolves when the program runs or has ended, however that was. Rejects with the reason if it was never started. */
export async function whenStarted(session: Session, begun: Instance, progress: Progress): Promise<Instance> {
  const instance = await whenSettled(session, begun, progress)
  if (instance.state === 'Running' || instance.state === 'Standby' || typeof instance.exit_code === 'number') return instance
  throw didNotStayUp(instance)
}

/** Resolves when the instance runs or has come to rest instead, telling meanwhile what it is at. */
async function whenSettled(session: Session, begun: Instance, progress: Progress): Promise<Instance> {
  if (begun.state === 'Running') return begun
  progress.say(`Waiting until ${begun.name} runs`)
  using _watch = watchEvents(session, begun.id, (event) => {
    const detail = event.type === 'step' ? `(${event.step} took ${milliseconds(event.ms)})` : `(${event.message})`
    progress.say(`Waiting until ${begun.name} runs`, detail)
  })
  await settle(session, begun.id, 'Running', onTheWay)
  return await session.client.instances.get(begun.id, { signal: session.signal })
}

function didNotStayUp(instance: Instance): Error {
  const { name, state } = instance
  if (state === 'Unknown')
    return new Error(
      `${name} is in an unknown state: ${instance.state_error ?? 'the server gives no reason'}; see hypeman logs ${name} --source vmm`,
    )
  const why =
    instance.exit_message ||
    (typeof instance.exit_code === 'number' ? `its program ended with exit code ${instance.exit_code}` : `it is ${state}`)
  return new Error(`${name} did not stay up: ${why}; see hypeman logs ${name}`)
}

/** States in which a program still runs or may go on. */
const alive: ReadonlySet<InstanceState> = new Set(['Created', 'Initializing', 'Running', 'Paused', 'Standby'])

/** Copies the program's output to standard output until it has ended; resolves with the instance then. */
export async function whenEnded(session: Session, instance: Instance): Promise<Instance> {
  const ended = new AbortController()
  const output = followOutput(session, instance.id, AbortSignal.any([session.signal, ended.signal]))
  let lines = 0
  try {
    await settle(session, instance.id, 'Stopped', alive)
  } finally {
    ended.abort()
    lines = await output
  }
  await printOutput(session, instance.id, lines)
  return await session.client.instances.get(instance.id, { signal: session.signal })
}

/** Resolves when the instance is in the wanted state, or rests in another that does not lead there. */
async function settle(session: Session, id: string, wanted: 'Running' | 'Stopped', underway: ReadonlySet<InstanceState>): Promise<void> {
  for (;;) {
    const { state } = await session.client.instances.wait(id, { state: wanted, timeout: HOLD }, { signal: session.signal })
    if (state === wanted || !underway.has(state)) return
  }
}

/** Tells each event of an instance from now on, until it is disposed of. */
function watchEvents(session: Session, id: string, tell: (event: InstanceEvent) => void): Disposable {
  const left = new AbortController()
  const signal = AbortSignal.any([session.signal, left.signal])
  const watching = (async () => {
    for await (const event of session.client.instances.events(id, { tail: 1, follow: true }, { signal })) tell(event)
  })()
  // Events only decorate the waiting: what goes wrong with the instance itself is told by the wait.
  watching.catch(() => undefined)
  return { [Symbol.dispose]: () => left.abort() }
}

/** Prints output as it comes until the signal aborts; resolves with how many lines that were. */
async function followOutput(session: Session, id: string, signal: AbortSignal): Promise<number> {
  let lines = 0
  try {
    for await (const line of session.client.instances.logs(id, { tail: WHOLE_LOG, follow: true }, { signal })) {
      await write(session.stdout, `${line}\n`)
      lines += 1
    }
  } catch (error) {
    // No log yet, or the stream broke: what is missing is printed when the program has ended.
    if (!signal.aborted && !(error instanceof ApiError && error.status === 404) && !(error instanceof UnreachableError)) throw error
  }
  return lines
}

/** Prints the output after the lines that were printed already: a stream that is left when the program has ended may lack its last words. */
async function printOutput(session: Session, id: string, printed: number): Promise<void> {
  let line = 0
  try {
    for await (const text of session.client.instances.logs(id, { tail: WHOLE_LOG }, { signal: session.signal })) {
      line += 1
      if (line > printed) await write(session.stdout, `${text}\n`)
    }
  } catch (error) {
    if (!(error instanceof ApiError && error.code === 'log_not_found')) throw error // a program that never ran has said nothing
  }
}
