// Makes the forks, a few at a time, asks each as soon as it runs, and deletes it again, however that ends.

import { randomBytes } from 'node:crypto'
import type { Instance } from '../../client/client.ts'
import { ApiError } from '../../client/errors.ts'
import { openExec } from '../../client/exec.ts'
import type { Session } from '../context.ts'
import { findingsOf, script, type Observation } from './probes.ts'

/** Longest that a fork's probes may take, in seconds: interpreters start slowly under emulation. */
const PROBE_LIMIT_S = 180

export interface CheckPlan {
  readonly snapshotId: string
  readonly count: number
  /** How many forks there are at once. */
  readonly parallel: number
}

export interface CheckedForks {
  readonly observations: readonly Observation[]
  /** Forks that could not be made, asked or deleted. */
  readonly failures: readonly { readonly name: string; readonly error: unknown }[]
}

/** An interrupt begins no more forks; those under way are deleted, and then it rejects. */
export async function observeForks(session: Session, plan: CheckPlan): Promise<CheckedForks> {
  const prefix = `fork-check-${randomBytes(4).toString('hex')}`
  const names = Array.from({ length: plan.count }, (_, index) => `${prefix}-${index + 1}`)
  const observations: Observation[] = []
  const failures: CheckedForks['failures'][number][] = []
  using progress = session.progress()
  const say = (): void => session.note('Interrupted: the forks that were made are deleted first; interrupt again to leave them')
  session.signal.addEventListener('abort', say, { once: true })
  const queue = names.values()
  const work = async (): Promise<void> => {
    for (const name of queue) {
      if (session.signal.aborted) return
      progress.say('Checking forks', `(${observations.length + failures.length} of ${plan.count})`)
      try {
        observations.push(await observeFork(session, plan.snapshotId, name))
      } catch (error) {
        failures.push(...partsOf(error).map((one) => ({ name, error: one })))
      }
    }
  }
  try {
    await Promise.all(Array.from({ length: Math.min(plan.parallel, plan.count) }, work))
  } finally {
    session.signal.removeEventListener('abort', say)
  }
  if (session.signal.aborted)
    for (const { name, error } of failures) if (error instanceof NotDeleted) session.note(`${name}: ${error.message}`)
  session.signal.throwIfAborted()
  return { observations, failures }
}

class NotDeleted extends Error {}

/** What went wrong with a fork, and then with its deletion. */
function partsOf(error: unknown): readonly unknown[] {
  return error instanceof SuppressedError ? [error.suppressed, error.error] : [error]
}

async function observeFork(session: Session, snapshotId: string, name: string): Promise<Observation> {
  await using undo = new AsyncDisposableStack()
  // By its name, and also when the answer was lost: the server makes a fork that was asked for in any case.
  undo.defer(() => deleteFork(session, name))
  const from = Date.now()
  const instance = await session.client.snapshots.fork(snapshotId, { name, target_state: 'Running' })
  session.signal.throwIfAborted()
  const asked = Date.now()
  const output = await outputOf(session, instance)
  const told = Date.now()
  return { name, instance, findings: findingsOf(output), from, to: told, asked, told }
}

async function outputOf(session: Session, { id, name }: Instance): Promise<string> {
  const request = { command: ['/bin/sh', '-c', script], tty: false, user: '0', timeout: PROBE_LIMIT_S }
  using exec = await openExec(session.client.http, id, request, session.signal)
  await exec.endInput()
  const chunks: Buffer[] = []
  for await (const one of exec.outputs()) {
    if (one.kind === 'output') chunks.push(one.data)
    else if (one.exitCode === 0) return Buffer.concat(chunks).toString('utf8')
    else
      throw new Error(
        `the probes ended with ${one.exitCode} in ${name}; the image needs /bin/sh: ${Buffer.concat(chunks).toString('utf8').trim()}`,
      )
  }
  throw new Error(`the probes in ${name} ended without an exit code`)
}

async function deleteFork(session: Session, name: string): Promise<void> {
  try {
    await session.client.instances.delete(name)
  } catch (cause) {
    if (cause instanceof ApiError && cause.status === 404) return // it was never made
    throw new NotDeleted(`it could not be deleted; hypeman rm --force ${name} does it`, { cause })
  }
}
