// One health check of an instance: asks its guest, or from the host where its agent is not to be asked, keeps what was seen (health.ts), and hands an unhealthy one to its restart policy.

import type { AgentClient, ExecSession, ProbeAnswer } from '../agent/contract.ts'
import { isHypemanError } from '../api/errors.ts'
import { messageOf } from '../platform/flow.ts'
import { lockInstance, type InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { isUnhealthy, judge, noHealth, type HealthCheck, type Outcome } from './health.ts'
import { askFromHost, requestOf, type NetworkProbe } from './host-check.ts'
import { agentOf, waitFor } from './machine.ts'
import { addressOf } from './network.ts'
import { afterUnhealthy, withoutPlan } from './restart-policy.ts'

/** The guest keeps the time of a check; one that does not even say that it is over is given up this much later, in milliseconds. */
const SILENCE_MS = 2_000
/** Output of a command that is kept for the reason of its failure, in bytes. */
const KEPT_OUTPUT = 200

/** Checks a Running instance. Nothing is asked, or concluded, while an operation on it is under way: its guest may stand still for that. */
export async function checkHealth(context: InstanceContext, entry: InstanceEntry): Promise<void> {
  const { machine, record } = entry
  const { healthCheck: check, runningSince: run } = record
  if (check === null || run === null || machine === undefined || context.locks.isHeld(entry.id)) return
  if ((await entry.observe()).state !== 'Running') return
  const outcome = await ask(context, entry, check)
  const isSame = entry.machine === machine && entry.record.healthCheck === check && entry.record.runningSince === run
  if (!isSame || context.stopping.aborted || context.locks.isHeld(entry.id)) return
  const before = entry.health?.run === run ? entry.health : noHealth(run)
  const health = judge(check, before, outcome, Date.now())
  entry.health = health
  if (health.status !== before.status)
    context.events.health(entry.id, health.status, outcome.kind === 'passed' ? 'checks pass' : outcome.error)
  if (health.status === 'unhealthy') await planForUnhealthy(context, entry)
  else if (health.status === 'healthy' && entry.record.restarts.nextAttemptAt !== null) await callOff(context, entry)
}

async function planForUnhealthy(context: InstanceContext, entry: InstanceEntry): Promise<void> {
  if (afterUnhealthy(entry.record, Date.now()) === entry.record.restarts) return
  using _lock = await lockInstance(context, entry)
  if (!isUnhealthy(entry.health, entry.record)) return
  await context.store.update(entry, { restarts: afterUnhealthy(entry.record, Date.now()) })
  context.events.restartPlan(entry.id, entry.record)
}

async function callOff(context: InstanceContext, entry: InstanceEntry): Promise<void> {
  using _lock = await lockInstance(context, entry)
  if (entry.record.process === null || entry.health?.status !== 'healthy' || entry.record.restarts.nextAttemptAt === null) return
  await context.store.update(entry, { restarts: withoutPlan(entry.record.restarts) })
  context.events.restart(entry.id, entry.record.restarts, 'it is healthy again before it was started again')
}

async function ask(context: InstanceContext, entry: InstanceEntry, check: HealthCheck): Promise<Outcome> {
  const limit = AbortSignal.timeout(Math.ceil(check.timeoutMs) + SILENCE_MS)
  const signal = AbortSignal.any([limit, entry.stopWaiting.signal, context.stopping])
  try {
    const error = await waitFor(failureOf(context, entry, check, signal), signal)
    return error === undefined ? { kind: 'passed' } : { kind: 'failed', error }
  } catch (error) {
    if (limit.aborted) return { kind: 'failed', error: 'the guest agent did not answer in time' }
    return { kind: isHypemanError(error, 'not_supported') ? 'unknown' : 'failed', error: messageOf(error) }
  }
}

/** Why the check did not pass; undefined if it did. */
async function failureOf(
  context: InstanceContext,
  entry: InstanceEntry,
  { probe, timeoutMs: exactMs }: HealthCheck,
  signal: AbortSignal,
): Promise<string | undefined> {
  const timeoutMs = Math.ceil(exactMs)
  if (probe.type === 'exec') return commandFailure(await agentOf(entry, context, signal), probe, timeoutMs, signal)
  const { error, status } = entry.record.skipGuestAgent
    ? await askFromHost(entry, probe, timeoutMs, signal)
    : await askInGuest(context, entry, probe, timeoutMs, signal)
  if (error !== undefined || probe.type === 'tcp') return error
  return status === probe.expectedStatus ? undefined : `status ${status} instead of ${probe.expectedStatus}`
}

async function askInGuest(
  context: InstanceContext,
  entry: InstanceEntry,
  probe: NetworkProbe,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<ProbeAnswer> {
  const agent = await agentOf(entry, context, signal)
  const { network } = entry.record
  const host = network === null ? null : addressOf(network)
  if (host === null) return { error: 'it has no network' }
  return agent.probe(requestOf(probe, { host, port: probe.port, timeoutMs }), signal)
}

async function commandFailure(
  agent: AgentClient,
  { command, workingDir }: { readonly command: readonly string[]; readonly workingDir: string | null },
  timeoutMs: number,
  signal: AbortSignal,
): Promise<string | undefined> {
  const request = { argv: command, tty: false, env: {}, cwd: workingDir ?? '', user: '', timeoutMs, rows: 24, cols: 80 }
  const session = await agent.exec(request, signal)
  const hangUp = (): void => session.hangUp()
  signal.addEventListener('abort', hangUp, { once: true })
  try {
    if (signal.aborted) session.hangUp()
    else await session.endInput()
    const output = await startOf(session)
    const { exitCode, timedOut, error } = await session.exit
    if (exitCode === 0) return undefined
    const words = error ?? (timedOut === true ? `no end within ${timeoutMs} ms` : `exit code ${exitCode}`)
    return output === '' ? words : `${words}: ${output}`
  } finally {
    signal.removeEventListener('abort', hangUp)
    session.hangUp()
  }
}

/** Reads all output, and keeps how it begins. */
async function startOf(session: ExecSession): Promise<string> {
  let kept = Buffer.alloc(0)
  for await (const { data } of session.output)
    if (kept.length < KEPT_OUTPUT) kept = Buffer.concat([kept, data.subarray(0, KEPT_OUTPUT - kept.length)])
  return kept.toString('utf8').trim()
}
