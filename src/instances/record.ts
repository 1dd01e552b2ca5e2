// An instance's record on disk (`record.json`): what it is and what is known of its run. The state is not in it: it is derived (state.ts).

import { z } from 'zod'
import { egressModes } from '../api/schemas/egress.ts'
import { environment, hypervisorName, tags, timestamp } from '../api/schemas/common.ts'
import { defineRecord, fileWord } from '../files/record-format.ts'
import { fileSeal } from '../files/seals.ts'
import { autoStandbyRecord } from './auto-standby.ts'
import { healthCheckRecord } from './health.ts'
import { phasesOfOlder, phasesRecord } from './phases.ts'
import { noRestarts, restartPolicyRecord, restartsRecord } from './restart-policy.ts'
import { secretBlock } from './secrets.ts'
import { snapshotPolicyRecord, standbyCompressionRecord } from './snapshot-policy.ts'

const processIdentity = z.object({ pid: z.int(), startTicks: z.string(), bootId: z.string() }).readonly()

export const versionStamp = z
  .object({ hypervisor: hypervisorName, version: z.string(), machineType: z.string(), accelerator: z.string() })
  .readonly()

const portMapping = z
  .object({
    guestPort: z.int().min(1).max(65_535),
    /** 0: to be chosen at the next start. */
    hostPort: z.int().min(0).max(65_535),
    protocol: z.enum(['tcp', 'udp']),
    hostAddress: z.string().regex(/^[0-9a-zA-Z.:%_-]*$/, 'not an address'),
    /** The host port was chosen by the server, so that a fork or a restart may choose another. */
    automatic: z.boolean(),
  })
  .readonly()

const attachedVolume = z
  .object({
    volumeId: z.string(),
    mountPath: z.string(),
    readOnly: z.boolean(),
    /** The part of the system disk that takes what the guest writes over a volume that is only read; null: there is none. */
    overlay: z.object({ offsetBytes: z.int().positive(), sizeBytes: z.int().positive() }).readonly().nullable(),
  })
  .readonly()

const networkBase = {
  mac: z.string().regex(/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/, 'not a MAC address'),
  ports: z.array(portMapping).readonly(),
}

/** In bytes per second; null: no limit. */
const bandwidth = z.number().positive().nullable()

const network = z.discriminatedUnion('kind', [
  /** Behind its VMM, with the addresses that all such guests have. */
  z.object({ kind: z.literal('user'), ...networkBase }).readonly(),
  /** Behind a device of the host's. */
  z
    .object({
      kind: z.literal('tap'),
      ...networkBase,
      /** Null: to be chosen at the next start. */
      address: z.ipv4().nullable(),
      downloadBytesPerSecond: bandwidth,
      uploadBytesPerSecond: bandwidth,
      /** What it may not do but by the host's proxy; null: it goes out directly. */
      egress: z.enum(egressModes).nullable(),
    })
    .readonly(),
])

const instanceRecord = z
  .object({
    version: z.literal(6),
    id: fileWord,
    name: z.string(),
    createdAt: timestamp,
    image: z.object({ name: z.string(), digest: z.string(), platform: z.string() }).readonly(),
    hypervisor: hypervisorName,
    /** Kernel that the next cold boot uses, and that a memory image needs. */
    kernelId: fileWord,
    vcpus: z.int().positive(),
    memoryBytes: z.int().positive(),
    hotplugBytes: z.int().nonnegative(),
    overlayBytes: z.int().nonnegative(),
    /** What all disks together may read and write; null: no limit. */
    diskBytesPerSecond: z.int().positive().nullable(),
    entrypoint: z.array(z.string()).readonly().nullable(),
    cmd: z.array(z.string()).readonly().nullable(),
    env: environment.readonly(),
    /** Secret variables and files, sealed. */
    secrets: z.array(secretBlock).readonly(),
    /** Subject of the token that made it; null: of a time when that was not recorded. */
    owner: z.string().nullable(),
    tags: tags.readonly(),
    skipGuestAgent: z.boolean(),
    volumes: z.array(attachedVolume).readonly(),
    network: network.nullable(),
    machineId: z.string(),
    /** Counts restores and forks of the memory, so that programs in the guest can tell. */
    generation: z.int(),
    /** What the guest must be told before it counts as Running: that it is a fork (a new identity), or that it was restored (entropy, clock). */
    identityDue: z.enum(['fork', 'restore']).nullable(),
    /** A fork was given variables or secret files of its own, and its guest must be told all of both with its identity. */
    environmentDue: z.boolean(),
    /** Why it runs without having taken its identity, which only `skipGuestAgent` allows; null: it has it. */
    unsafeFork: z.string().nullable(),
    expiresAt: timestamp.nullable(),
    forkedFrom: z.object({ snapshotId: z.string().nullable(), instanceId: z.string() }).readonly().nullable(),
    /** The VMM that the instance last started on: what wrote its memory image, if there is one. */
    stamp: versionStamp.nullable(),
    /** The VMM process, as long as it is not known to be gone. */
    process: processIdentity.nullable(),
    startedAt: timestamp.nullable(),
    stoppedAt: timestamp.nullable(),
    /** Of the present boot: when the workload was started, and when the agent first answered. */
    programStartedAt: timestamp.nullable(),
    agentReadyAt: timestamp.nullable(),
    /** Since when it is Running, without a standby or restart in between; null while it is not. */
    runningSince: timestamp.nullable(),
    restartPolicy: restartPolicyRecord.nullable(),
    restarts: restartsRecord,
    healthCheck: healthCheckRecord.nullable(),
    autoStandby: autoStandbyRecord.nullable(),
    /** What the guest was asked to give back for a while, and until when, by its balloon, which a memory image has as well; null: nothing. */
    balloon: z.object({ bytes: z.int().positive(), until: timestamp }).readonly().nullable(),
    snapshotPolicy: snapshotPolicyRecord.nullable(),
    phases: phasesRecord,
    exit: z.object({ code: z.int().nullable(), message: z.string() }).readonly().nullable(),
    /** Seals of the memory image and the disks that go with it, while the instance is in standby; null also where none were made. */
    savedMemory: z.array(fileSeal).readonly().nullable(),
    /** How the memory of this standby is to be compressed, and what of it is; null as well while it is in none. */
    standbyCompression: standbyCompressionRecord.nullable(),
    /** Set while a snapshot is restored into this directory: the id of the journal that can bring the old one back. */
    restoring: z.string().nullable(),
  })
  .readonly()

export const instanceFormat = defineRecord({
  kind: 'instance record',
  version: 6,
  schema: instanceRecord,
  // Version 1 had no seals of saved memory, but for records of the days in which they were added.
  steps: {
    1: (record) => ({ savedMemory: null, ...record }),
    // Version 2 knew neither restarts nor health checks.
    2: (record) => ({
      ...record,
      runningSince: record['process'] === null ? null : record['agentReadyAt'],
      restartPolicy: null,
      restarts: noRestarts,
      healthCheck: null,
    }),
    // Version 3 knew no layers over volumes.
    3: (record) => ({
      ...record,
      volumes: z
        .array(z.looseObject({}))
        .parse(record['volumes'])
        .map((volume) => ({ ...volume, overlay: null })),
    }),
    // Version 4 knew neither a limit of disk throughput nor standby by itself, and kept no phases.
    4: (record) => ({ ...record, diskBytesPerSecond: null, autoStandby: null, phases: phasesOfOlder(record) }),
    // Version 5 knew networks in user mode alone, and neither secrets, owners, guests that run without their identity, compression in standby nor memory taken back.
    5: (record) => ({
      ...record,
      ...{
        secrets: [],
        owner: null,
        environmentDue: false,
        unsafeFork: null,
        snapshotPolicy: null,
        standbyCompression: null,
        balloon: null,
      },
      network: record['network'] === null ? null : { kind: 'user', ...z.looseObject({}).parse(record['network']) },
    }),
  },
})

export type InstanceRecord = z.infer<typeof instanceRecord>
