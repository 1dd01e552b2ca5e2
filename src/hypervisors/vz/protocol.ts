// What the driver and its helper say to each other: the schemas of vz/PROTOCOL.md, which the helper (vz/, Swift) follows, too. No I/O.
// A change here is a change of that page, of the helper and of `PROTOCOL`.

import { z } from 'zod'

/** Version of the protocol. A helper of another one is not used. */
export const PROTOCOL = 1

/** Virtio serial of the system disk. */
export const systemDisk = 'system'

const text = z.string().min(1).max(4096)

/** A raw disk. The guest finds it by its virtio serial, `id`. */
const disk = z
  .object({
    id: z.string().regex(/^[a-z0-9-]{1,20}$/),
    /** Absolute, or relative to the helper's working directory. */
    path: text,
    readOnly: z.boolean(),
  })
  .readonly()

/** All that a virtual machine is made from. Equal configurations, but for their paths, make equal devices in equal order: only so does a saved state restore. */
export const configuration = z
  .object({
    vcpus: z.int().positive(),
    memoryBytes: z
      .int()
      .positive()
      .multipleOf(1024 ** 2),
    kernel: text,
    initrd: text,
    commandLine: z.string().max(4096),
    disks: z.array(disk).min(1).readonly(),
    /** A card behind the host's shared NAT; null: none. */
    network: z
      .object({ mac: z.string().regex(/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/) })
      .readonly()
      .nullable(),
    /** Files to which the guest's console and its port `org.hypeman.log.0` are appended. */
    consoleLog: text,
    appLog: text,
    /** Unix socket that the helper makes: connections to the guest's vsock ports. */
    vsockSocket: text,
  })
  .readonly()
export type Configuration = z.infer<typeof configuration>

/** `VZGenericMachineIdentifier` as base64. */
export const machineIdentifier = z.base64().min(1).max(4096)

/** The states of the framework's virtual machine, and `Empty` before there is one. */
export const states = [
  'Empty',
  'Created',
  'Starting',
  'Running',
  'Pausing',
  'Paused',
  'Resuming',
  'Saving',
  'Restoring',
  'Stopping',
  'Shutdown',
  'Error',
] as const
export type VzState = (typeof states)[number]

const nothing = z.undefined()
const file = z.object({ file: text })

/** The operations: method and body of the request, body of the answer. Those without a body are answered with 204, or 202 when they go on afterwards. */
export const operations = {
  'vmm.ping': { method: 'GET', request: nothing, answer: z.object({ protocol: z.int(), macos: text, pid: z.int().positive() }) },
  'vm.create': {
    method: 'PUT',
    request: z.object({ configuration, machineIdentifier: machineIdentifier.optional() }),
    /** `saveRestore`: why the framework can't save a machine of this configuration; null if it can. */
    answer: z.object({ machineIdentifier, saveRestore: z.string().nullable() }),
  },
  'vm.boot': { method: 'PUT', request: nothing, answer: nothing },
  'vm.restore': { method: 'PUT', request: file, answer: nothing },
  'vm.info': {
    method: 'GET',
    request: nothing,
    answer: z.object({
      state: z.enum(states),
      /** Null in the state `Empty`. */
      configuration: configuration.nullable(),
      machineIdentifier: machineIdentifier.nullable(),
      saveRestore: z.string().nullable(),
      /** What the guest was last asked to keep; null before it runs. */
      balloonTargetBytes: z.int().nonnegative().nullable(),
    }),
  },
  'vm.pause': { method: 'PUT', request: nothing, answer: nothing },
  'vm.resume': { method: 'PUT', request: nothing, answer: nothing },
  'vm.snapshot': { method: 'PUT', request: file, answer: nothing },
  'vm.balloon': { method: 'PUT', request: z.object({ targetBytes: z.int().positive() }), answer: nothing },
  'vm.power-button': { method: 'PUT', request: nothing, answer: nothing },
  'vm.shutdown': { method: 'PUT', request: nothing, answer: nothing },
  'vmm.shutdown': { method: 'PUT', request: nothing, answer: nothing },
} as const

export type Operation = keyof typeof operations
export type RequestOf<O extends Operation> = z.infer<(typeof operations)[O]['request']>
export type AnswerOf<O extends Operation> = z.infer<(typeof operations)[O]['answer']>

/** Codes of refusals and their HTTP status. */
export const refusals = {
  bad_request: 400,
  not_found: 404,
  wrong_state: 409,
  failed: 500,
  not_supported: 501,
  no_space: 507,
} as const
export type RefusalCode = keyof typeof refusals

export const refusal = z.object({
  code: z.enum(Object.keys(refusals) as [RefusalCode, ...RefusalCode[]]),
  message: z.string().min(1),
})

/** Path of an operation on the control socket. */
export function pathOf(operation: Operation): string {
  return `/api/v${PROTOCOL}/${operation}`
}
