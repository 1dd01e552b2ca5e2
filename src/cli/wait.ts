// Waits with a person: until an instance runs, showing what it is at, or until its program has ended, showing its output.

import { ApiError, UnreachableError } from '../client/errors.ts'
import type { Instance, InstanceEvent, InstanceState } from '../client/client.ts'
import type { Session } from './context.ts'
import type { Progress } from './output/progress.ts'
import { write } from './terminal.ts'

/** How long one request holds; the next one goes on. */
const HOLD = '50s'

/** States that lead to Running by themselves. */
const onTheWay: ReadonlySet<InstanceState> = new Set(['Created', 'Initializing'])

/** Resolves when the instance runs, or its program has already ended well. Rejects with the reason if it will not run. */
export async function whenRunning(session: Session, begun: Instance, progress: Progress): Promise<Instance> {
  if (begun.state === 'Running') return begun
  progress.say(`Waiting until ${begun.name} runs`)
  using _watch = watchEvents(session, begun.id, (event) => {
    const step = event.type === 'step' ? `(${event.step} took ${Math.round(event.ms)} ms)` : `(${event.message})`
    progress.say(`Waiting until ${begun.name} runs`, step)
  })
  const state = await settle(session, begun.id, 'Running', onTheWay)
  const instance = await session.client.instances.get(begun.id, { signal: session.signal })
  if (state === 'Running' || state === 'Standby') return instance
  if (state === 'Unknown')
    throw new Error(
      `${instance.name} is in an unknown state: ${instance.state_error ?? 'the server gives no reason'}; see hypeman logs ${instance.name} --source vmm`,
    )
  if (instance.exit_code === 0) return instance
  const why =
    instance.exit_message ||
    (typeof instance.exit_code === 'number' ? `its program ended with exit code ${instance.exit_code}` : `it is ${state}`)
  throw new Error(`${instance.name} did not stay up: ${why}; see hypeman logs ${instance.name}`)
}

/** States in which a program still runs or may go on. */
const alive: ReadonlySet<InstanceState> = new Set(['Created', 'Initializing', 'Running', 'Paused', 'Standby'])

/** Copies the program's output to standard output until it has ended; resolves with the instance then. */
export async function whenEnded(session: Session, instance: Instance): Promise<Instance> {
  const ended = new AbortController()
  const output = copyOutput(session, instance.id, AbortSignal.any([session.signal, ended.signal]), ended.signal)
  try {
    await settle(session, instance.id, 'Stopped', alive)
  } finally {
    ended.abort()
    await output
  }
  return await session.client.instances.get(instance.id, { signal: session.signal })
}

/** Resolves with the state in which the instance rests: the wanted one, or another that does not lead there. */
async function settle(session: Session, id: string, wanted: InstanceState, underway: ReadonlySet<InstanceState>): Promise<InstanceState> {
  for (;;) {
    const { state } = await session.client.instances.wait(id, { state: wanted, timeout: HOLD }, { signal: session.signal })
    if (state === wanted || !underway.has(state)) return state
  }
}
