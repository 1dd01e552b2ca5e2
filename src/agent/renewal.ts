// What a guest is told first after every boot, restore and fork, and what it answers: plain lines in one frame of the session (guest/protocol.md, section 3).
// The answer comes from a guest that is not trusted: it is bounded (by the session) and checked.

import { randomBytes } from 'node:crypto'
import { HypemanError } from '../api/errors.ts'
import type { BootedGuest, GuestIdentity, GuestVolume, GuestWorkload, IdentityStep, WorkloadStatus } from './contract.ts'
import type { YamuxSession } from './yamux.ts'

/** Longest message, in bytes: a command and its environment have to fit (guest/yamux/session.go). */
const LONGEST_MESSAGE = 1024 ** 2

/** Host entropy that a guest is given at boot, restore and fork, in bytes. */
const ENTROPY_BYTES = 256
/** How far a guest's clock may be from the host's after it was set, in milliseconds (a guest that is told the time beside fifty others takes 30 to 160 ms), and how often it is tried. */
const CLOCK_ERROR_MS = 200
const CLOCK_ATTEMPTS = 5

export interface Renewal {
  /** For `restore` only entropy, clock and generation are applied. */
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
  /** The guest's wall clock when it answered, in milliseconds. */
  readonly timeMs: number
}

/** Gives the guest its identity and the time. The returned steps tell what failed; a guest that refuses is an error. */
export async function renewIdentity(
  session: YamuxSession,
  renewal: Renewal,
  signal: AbortSignal | undefined,
): Promise<readonly IdentityStep[]> {
  const { steps, timeMs } = await ask(session, linesOf(renewal), signal)
  if (isOff(timeMs)) await setClock(session, signal)
  return steps
}

/** Gives a guest that waits its identity, volumes and program. One that has them already says how its program is, and does nothing. A step that fails is an error. */
export async function bootGuest(session: YamuxSession, boot: Boot, signal: AbortSignal | undefined): Promise<BootedGuest> {
  const { steps, timeMs, state } = await ask(session, linesOfBoot(boot), signal)
  if (state === undefined) throw new HypemanError('guest_unreachable', "the guest agent's answer to a boot does not say how its program is")
  if (isOff(timeMs)) await setClock(session, signal)
  return { steps, state }
}

/** Steps the guest's clock. A guest that was busy gets an old time, so it is told again until it is right. */
async function setClock(session: YamuxSession, signal: AbortSignal | undefined): Promise<void> {
  for (let attempt = 0; attempt < CLOCK_ATTEMPTS; attempt += 1) {
    const { timeMs } = await ask(session, [['reason', 'clock'], timeLine()], signal)
    if (!isOff(timeMs)) return
  }
}

function isOff(timeMs: number): boolean {
  return Math.abs(Date.now() - timeMs) > CLOCK_ERROR_MS
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
  signal?.throwIfAborted()
  const message = Buffer.from(lines.map(([key, value]) => `${key} ${String(value).replaceAll('\n', ' ')}\n`).join(''))
  if (message.length > LONGEST_MESSAGE)
    throw new HypemanError(
      'invalid_request',
      `the command and its environment are longer than the ${LONGEST_MESSAGE} bytes that a guest takes`,
    )
  // Nothing else can be asked of a guest that leaves a renewal unanswered.
  const abort = (): void => session.end(signal?.reason as Error)
  signal?.addEventListener('abort', abort, { once: true })
  try {
    return parseAnswer((await session.renew(message)).toString('utf8'))
  } catch (error) {
    signal?.throwIfAborted()
    throw error
  } finally {
    signal?.removeEventListener('abort', abort)
  }
}

const stepLine = /^step (?<name>[a-z-]{1,40}) (?<us>\d{1,15}) (?:ok|failed (?<message>.*))$/
const stateLine = /^workload (?<state>waiting|running|exited)$/
const timeOfAnswer = /^time (?<ms>\d{1,13})\d{6}$/

function parseAnswer(text: string): Answer {
  if (text.startsWith('refused '))
    throw new HypemanError('conflict', `the guest could not do what it was told first: ${text.slice(8).trimEnd()}`)
  const steps: IdentityStep[] = []
  let timeMs: number | undefined
  let state: string | undefined
  for (const line of text.trimEnd().split('\n')) {
    const step = stepLine.exec(line)?.groups
    const found = stateLine.exec(line)?.groups?.['state']
    const ms = timeOfAnswer.exec(line)?.groups?.['ms']
    if (step !== undefined)
      steps.push({ name: step['name'] ?? '', ms: Number(step['us']) / 1_000, ok: step['message'] === undefined, message: step['message'] })
    else if (found !== undefined) state = found
    else if (ms !== undefined) timeMs = Number(ms)
    else throw new HypemanError('guest_unreachable', "the guest agent's answer to its identity can't be understood")
  }
  if (timeMs === undefined) throw new HypemanError('guest_unreachable', "the guest agent's answer to its identity has no time")
  return { steps, timeMs, state: state as WorkloadStatus['state'] | undefined }
}
