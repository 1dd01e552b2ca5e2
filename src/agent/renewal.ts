// What a guest is told first after every boot, restore and fork, and what it answers: plain lines in one frame of the session (guest/protocol.md, section 3).
// The answer comes from a guest that is not trusted: it is bounded (by the session) and checked.

import { randomBytes } from 'node:crypto'
import { HypemanError } from '../api/errors.ts'
import type { BootedGuest, GuestIdentity, GuestVolume, GuestWorkload, IdentityStep, WorkloadStatus } from './contract.ts'
import type { YamuxSession } from './yamux.ts'

/** Longest message, in bytes: a command, its environment and the secret files have to fit (guest/yamux/session.go). */
const LONGEST_MESSAGE = 1024 ** 2

/** Host entropy that a guest is given at boot, restore and fork, in bytes. */
const ENTROPY_BYTES = 256
/** How far a guest's clock may be from the host's, in milliseconds, and how often it is set before a guest that is too slow for that is left as near as it came (one beside fifty others takes 30 to 160 ms to hear the time). */
const CLOCK_ERROR_MS = 50
const CLOCK_ATTEMPTS = 5
/** A clock that is provably further off was not set at all, in milliseconds. */
const CLOCK_FAILURE_MS = 1_000

export interface Renewal {
  /** `restore` leaves the identity as it is. */
  readonly reason: 'fork' | 'restore'
  readonly identity: GuestIdentity
  readonly generation: number
}

/** What a guest that waits is told once. */
export interface Boot {
  readonly identity: GuestIdentity
  readonly volumes: readonly GuestVolume[]
  readonly workload: GuestWorkload
}

interface Answer {
  readonly steps: readonly IdentityStep[]
  /** How its program is; only a boot's answer says so. */
  readonly state?: WorkloadStatus['state'] | undefined
  /** Its programs stand still. */
  readonly isFrozen: boolean
  readonly clock: ClockReading
}

/** The guest's wall clock when it answered, and the host's before it was asked and after it had answered, in milliseconds. */
interface ClockReading {
  readonly guestMs: number
  readonly askedMs: number
  readonly answeredMs: number
}

/** What each agent has done so far when it was told so; an answer that lacks one of them is of an agent that did not do it. */
const demanded = {
  fork: ['entropy', 'clock', 'machine-id', 'boot-id', 'hostname', 'ssh-keys', 'connections', 'generation', 'hooks'],
  restore: ['entropy', 'clock', 'connections', 'generation', 'hooks'],
} as const satisfies Record<Renewal['reason'], readonly string[]>

/** What is said of a step that the answer lacks. */
export const NOT_DONE = 'the guest agent did not do it'

/** What is said of a fork whose programs the agent can't have stand still. */
const PROGRAMS_RAN =
  "the guest's agent is older than the server and can't have programs stand still: they may have run before the fork had its identity; stop and start the instance to give it the present agent"

/** Gives the guest its identity and the time, and has its programs go on if all went well. The returned steps tell what failed; a guest that refuses is an error. */
export async function renewIdentity(
  session: YamuxSession,
  renewal: Renewal,
  signal: AbortSignal | undefined,
): Promise<readonly IdentityStep[]> {
  const told = await ask(session, linesOf(renewal), signal)
  const steps = [...told.steps, ...missing(told.steps, renewal)]
  if (steps.some(({ ok }) => !ok)) return steps
  // An agent of an earlier version has none stand still.
  if (!told.isFrozen) {
    if (renewal.reason === 'fork') steps.push({ name: 'programs-run', ms: 0, ok: true, warning: PROGRAMS_RAN })
    return [...steps, ...(await settleClock(session, told.clock, signal))]
  }
  if (wrongByMs(told.clock) > CLOCK_FAILURE_MS) return [...steps, neverSet(told.clock)]
  const thawed = await ask(session, [['reason', 'thaw'], timeLine()], signal)
  steps.push(...thawed.steps.filter(({ name, ok }) => name !== 'clock' || !ok), ...lacking(thawed.steps, ['thaw']))
  if (steps.some(({ ok }) => !ok)) return steps
  return [...steps, ...(await settleClock(session, thawed.clock, signal))]
}

/** False: an agent of an earlier version. */
export async function freezePrograms(session: YamuxSession, signal: AbortSignal | undefined): Promise<boolean> {
  return await demand(session, 'freeze', signal)
}

/** An agent of an earlier version has nothing to do. */
export async function thawPrograms(session: YamuxSession, signal: AbortSignal | undefined): Promise<void> {
  await demand(session, 'thaw', signal)
}

/** False: the agent has never heard of it. */
async function demand(session: YamuxSession, name: 'freeze' | 'thaw', signal: AbortSignal | undefined): Promise<boolean> {
  const answer = await answerTo(session, [['reason', name]], signal)
  if (answer instanceof Refusal) {
    // All that such an agent says to a reason that it does not know.
    if (answer.reason.startsWith('the reason is ')) return false
    throw answer.error()
  }
  const step = answer.steps.find((one) => one.name === name)
  if (step?.ok === true) return true
  throw new HypemanError('guest_unreachable', `the guest agent could not ${name} its programs: ${step?.message ?? 'it does not say why'}`)
}

function missing(steps: readonly IdentityStep[], { reason, identity }: Renewal): IdentityStep[] {
  const wanted: string[] = [...demanded[reason]]
  if (reason === 'fork' && identity.network !== null) wanted.push('network')
  if (Object.keys(identity.env ?? {}).length > 0) wanted.push('environment')
  if (hasFiles(identity)) wanted.push('secrets')
  return lacking(steps, wanted)
}

function lacking(steps: readonly IdentityStep[], wanted: readonly string[]): IdentityStep[] {
  return wanted.filter((name) => !steps.some((one) => one.name === name)).map((name) => ({ name, ms: 0, ok: false, message: NOT_DONE }))
}

/** Gives a guest that waits its identity, volumes and program. One that has them already says how its program is, and does nothing. A step that fails is an error. */
export async function bootGuest(session: YamuxSession, boot: Boot, signal: AbortSignal | undefined): Promise<BootedGuest> {
  const { steps, clock, state } = await ask(session, linesOfBoot(boot), signal)
  if (state === undefined) throw new HypemanError('guest_unreachable', "the guest agent's answer to a boot does not say how its program is")
  // Told again, it does nothing and names no step.
  if (hasFiles(boot.identity) && steps.length > 0 && !steps.some(({ name }) => name === 'secrets'))
    throw new HypemanError('not_supported', "the guest agent is of an older version, which can't be given secret files")
  return { steps: [...steps, ...(await settleClock(session, clock, signal))], state }
}

/**
 * Sets the guest's clock until it is right: a guest that was busy hears an old time. What comes back is a step only if that was not reached: a warning if it is as near as
 * such a guest can be brought, a failure if it was provably never set.
 */
async function settleClock(session: YamuxSession, first: ClockReading, signal: AbortSignal | undefined): Promise<readonly IdentityStep[]> {
  let reading = first
  for (let attempt = 0; attempt < CLOCK_ATTEMPTS && isOff(reading); attempt += 1) {
    reading = (await ask(session, [['reason', 'clock'], timeLine()], signal)).clock
  }
  if (!isOff(reading)) return []
  if (wrongByMs(reading) > CLOCK_FAILURE_MS) return [neverSet(reading)]
  const farMs = Math.round(Math.abs(reading.answeredMs - reading.guestMs))
  const warning = `the guest's clock may be ${farMs} ms off: the guest is too slow to be told the time more exactly`
  return [{ name: 'clock-check', ms: 0, ok: true, warning }]
}

/** How far the clock is off for certain, in milliseconds. One that was set, however long ago, was right between the question and the answer. */
function wrongByMs({ guestMs, askedMs, answeredMs }: ClockReading): number {
  return Math.max(askedMs - guestMs, guestMs - answeredMs)
}

function neverSet(reading: ClockReading): IdentityStep {
  const message = `the guest's clock is at least ${Math.round(wrongByMs(reading))} ms off and can't be set`
  return { name: 'clock-check', ms: 0, ok: false, message }
}

function isOff({ guestMs, answeredMs }: ClockReading): boolean {
  return Math.abs(answeredMs - guestMs) > CLOCK_ERROR_MS
}

type Line = readonly [key: string, value: string | number]

function linesOf({ reason, identity, generation }: Renewal): readonly Line[] {
  return [['reason', reason], ['generation', generation], ...variableLines(identity.env ?? {}), ...linesOfIdentity(identity)]
}

function linesOfBoot({ identity, volumes, workload }: Boot): readonly Line[] {
  return [
    ['reason', 'boot'],
    ...volumes.map((volume): Line => ['volume', `${volume.disk} ${modeOf(volume)} ${escape(volume.mountPath)}`]),
    ...workload.argv.map((argument): Line => ['argument', escape(argument)]),
    ...variableLines(workload.env),
    ['directory', escape(workload.cwd)],
    ['user', escape(workload.user)],
    ['stop-signal', workload.stopSignal],
    ...linesOfIdentity(identity),
  ]
}

function modeOf({ readOnly, layerPart }: GuestVolume): string {
  return layerPart === null ? (readOnly ? 'ro' : 'rw') : `over:${layerPart}`
}

function variableLines(env: GuestWorkload['env']): Line[] {
  return Object.entries(env).map(([name, value]): Line => ['variable', escape(`${name}=${value}`)])
}

function hasFiles({ secretFiles = {} }: GuestIdentity): boolean {
  return Object.keys(secretFiles).length > 0
}

/** Keeps a value on its line. */
function escape(value: string): string {
  return value.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')
}

/** Entropy and time are taken here, as late as possible. */
function linesOfIdentity(identity: GuestIdentity): readonly Line[] {
  const { network } = identity
  return [
    ['instance', identity.instanceId],
    ['hostname', identity.hostname],
    ['machine-id', identity.machineId],
    ...Object.entries(identity.secretFiles ?? {}).map(([name, text]): Line => ['secret', escape(`${name}=${text}`)]),
    ...(network === null
      ? []
      : ([
          ['mac', network.mac],
          ['address', network.address],
          ['gateway', network.gateway],
          ...network.dns.map((server): Line => ['dns', server]),
          ['mtu', network.mtu],
        ] satisfies Line[])),
    ['entropy', randomBytes(ENTROPY_BYTES).toString('base64')],
    timeLine(),
  ]
}

function timeLine(): Line {
  return ['time', `${Date.now()}000000`]
}

async function ask(session: YamuxSession, lines: readonly Line[], signal: AbortSignal | undefined): Promise<Answer> {
  const answer = await answerTo(session, lines, signal)
  if (answer instanceof Refusal) throw answer.error()
  return answer
}

async function answerTo(session: YamuxSession, lines: readonly Line[], signal: AbortSignal | undefined): Promise<Answer | Refusal> {
  signal?.throwIfAborted()
  const message = Buffer.from(lines.map(([key, value]) => `${key} ${String(value).replaceAll('\n', ' ')}\n`).join(''))
  if (message.length > LONGEST_MESSAGE)
    throw new HypemanError(
      'invalid_request',
      `the command, its environment and the secret files are longer than the ${LONGEST_MESSAGE} bytes that a guest takes`,
    )
  // Nothing else can be asked of a guest that leaves a renewal unanswered.
  const abort = (): void => session.end(signal?.reason as Error)
  signal?.addEventListener('abort', abort, { once: true })
  try {
    const askedMs = Date.now()
    const text = (await session.renew(message)).toString('utf8')
    return parseAnswer(text, askedMs, Date.now())
  } catch (error) {
    signal?.throwIfAborted()
    throw error
  } finally {
    signal?.removeEventListener('abort', abort)
  }
}

/** What the guest said instead of doing it. */
class Refusal {
  readonly reason: string
  constructor(reason: string) {
    this.reason = reason
  }
  error(): HypemanError {
    return new HypemanError('conflict', `the guest could not do what it was told first: ${this.reason}`)
  }
}

const stepLine = /^step (?<name>[a-z-]{1,40}) (?<us>\d{1,15}) (?:ok(?: (?<note>.*))?|warned (?<warning>.*)|failed (?<message>.*))$/s
const stateLine = /^workload (?<state>waiting|running|exited)$/
const frozenLine = 'programs frozen'
const timeOfAnswer = /^time (?<ms>\d{1,13})\d{6}$/

function parseAnswer(text: string, askedMs: number, answeredMs: number): Answer | Refusal {
  if (text.startsWith('refused ')) return new Refusal(text.slice(8).trimEnd())
  const steps: IdentityStep[] = []
  let guestMs: number | undefined
  let state: string | undefined
  let isFrozen = false
  for (const line of text.trimEnd().split('\n')) {
    const step = stepLine.exec(line)?.groups
    const found = stateLine.exec(line)?.groups?.['state']
    const ms = timeOfAnswer.exec(line)?.groups?.['ms']
    if (step !== undefined) steps.push(stepOf(step))
    else if (found !== undefined) state = found
    else if (line === frozenLine) isFrozen = true
    else if (ms !== undefined) guestMs = Number(ms)
    else throw new HypemanError('guest_unreachable', "the guest agent's answer to its identity can't be understood")
  }
  if (guestMs === undefined) throw new HypemanError('guest_unreachable', "the guest agent's answer to its identity has no time")
  return { steps, clock: { guestMs, askedMs, answeredMs }, isFrozen, state: state as WorkloadStatus['state'] | undefined }
}

function stepOf({ name = '', us, note, warning, message }: Readonly<Record<string, string | undefined>>): IdentityStep {
  return {
    name,
    ms: Number(us) / 1_000,
    ok: message === undefined,
    ...(message === undefined ? {} : { message }),
    ...(warning === undefined ? {} : { warning }),
    ...(note === undefined ? {} : { note }),
  }
}
