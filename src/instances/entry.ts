// One instance as the server holds it: its committed record and its live handles. Holds no rules; flows change it under its lock.

import type { AgentClient } from '../agent/contract.ts'
import type { Machine, MachineStatus } from '../hypervisors/driver.ts'
import { mayBeAlive } from '../platform/process.ts'
import type { Idleness } from './auto-standby.ts'
import type { CompressionSeen, CompressionWork } from './compress-standby.ts'
import type { Health } from './health.ts'
import { createOwnProbes, type OwnProbes } from './own-probes.ts'
import type { InstanceRecord } from './record.ts'
import { deriveState, type DerivedState } from './state.ts'

/** Longest wait for a VMM to say what it does, in milliseconds: for those who only look, and for an operation, which a slow host shall not refuse. */
const STATUS_TIMEOUT_MS = 500
const PATIENT_STATUS_TIMEOUT_MS = 10_000

/** Who uses an instance, as far as this server has seen. Times are milliseconds since 1970. */
export interface Idle {
  /** What looks at its connections have shown; undefined before the first one. */
  seen: Idleness | undefined
  /** The last look failed. */
  isBlind: boolean
  /** Connections of its health checks, which use nothing. */
  readonly ownProbes: OwnProbes
  /** Streams of the API into the guest: exec, copy, logs that are followed. */
  users: number
  lastUsedMs: number | null
  /** It was asked for not to be put on standby until then. */
  holdUntilMs: number | null
  /** An attempt to put it on standby has failed, and the next one is not before. */
  retryAtMs: number | null
  /** An attempt to put it on standby by itself is under way. */
  isRequested: boolean
}

export class InstanceEntry {
  record: InstanceRecord
  /** The VMM process, as long as it lives. */
  machine: Machine | undefined
  /** The open connection to the guest's agent, or its opening. */
  agent: Promise<AgentClient> | undefined
  /** A complete memory image lies in the directory. */
  holdsMemory: boolean
  /** The background work that brings a started machine to Running; settles when it is done or has failed. */
  readying: Promise<void> | undefined
  /** What checks have shown of the present run, or an earlier one. */
  health: Health | undefined
  readonly idle: Idle = {
    ...{ seen: undefined, isBlind: false, users: 0, lastUsedMs: null },
    ...{ holdUntilMs: null, retryAtMs: null, isRequested: false },
    ownProbes: createOwnProbes(),
  }
  /** It is on its way to standby, and nothing calls that off any more. */
  suspending = false
  /** Its VMM has ended, and why is not in the record yet. */
  settling = false
  /** The last change of the record; the store's. */
  writing: Promise<void> = Promise.resolve()
  /** The programs of its guest stand still, and could not be made to go on yet (stillness.ts). */
  standsStill = false
  /** Which template it began with, as long as this server knows. */
  templateKey: string | undefined
  /** What compresses its memory, while it is in standby. */
  compressing: CompressionWork | undefined
  compressionSeen: CompressionSeen | undefined
  /** An attempt to give memory back that was taken from the guest is not made before, in milliseconds since 1970. */
  reclaimRetryMs = 0
  /** It is being deleted: whatever state it shows on its way is not one to rest in. */
  removing = false
  /** Aborts `readying` and whatever else waits for this machine. */
  stopWaiting: AbortController

  constructor(record: InstanceRecord, holdsMemory: boolean) {
    this.record = record
    this.holdsMemory = holdsMemory
    this.stopWaiting = new AbortController()
  }

  get id(): string {
    return this.record.id
  }

  /** Looks at the process and derives the state; never remembers it. */
  async observe(): Promise<DerivedState> {
    return this.derive(await this.#vmmStatus(STATUS_TIMEOUT_MS))
  }

  /** The same for what depends on the answer: a VMM that is only slow is waited for. */
  async observePatiently(): Promise<DerivedState> {
    return this.derive(await this.#vmmStatus(PATIENT_STATUS_TIMEOUT_MS))
  }

  /** The state that a known VMM status means. */
  derive(vmm: MachineStatus | 'gone' | 'unanswered'): DerivedState {
    return deriveState({
      vmm,
      holdsMemory: this.holdsMemory,
      programStarted: this.record.programStartedAt !== null,
      agentReady: this.record.agentReadyAt !== null,
      skipGuestAgent: this.record.skipGuestAgent,
      identityDue: this.record.identityDue !== null,
      standsStill: this.standsStill,
    })
  }

  /** Also true of a VMM that could not be taken over after a restart of the server: no reason to start another, to take its disks, or to promise its memory to others. */
  get mayHaveVmm(): boolean {
    return this.machine !== undefined || (this.record.process !== null && mayBeAlive(this.record.process))
  }

  async #vmmStatus(limitMs: number): Promise<MachineStatus | 'gone' | 'unanswered'> {
    const { machine } = this
    if (machine === undefined) return this.mayHaveVmm ? 'unanswered' : 'gone'
    const limit = AbortSignal.timeout(limitMs)
    try {
      return await machine.status(limit)
    } catch {
      // A VMM that is just ending closes its socket first: what failed is told by whether the process is gone in time.
      const soon = limit.aborted ? limit : AbortSignal.timeout(STATUS_TIMEOUT_MS)
      return (await endedBefore(machine.exited, soon)) ? 'gone' : 'unanswered'
    }
  }
}

async function endedBefore(exited: Promise<unknown>, limit: AbortSignal): Promise<boolean> {
  if (limit.aborted) return false
  const { promise: late, resolve } = Promise.withResolvers<false>()
  limit.addEventListener('abort', () => resolve(false), { once: true })
  return Promise.race([exited.then(() => true), late])
}
