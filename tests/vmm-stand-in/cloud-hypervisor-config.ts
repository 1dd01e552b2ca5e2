// A Cloud Hypervisor's configuration: what it means for the guest, and the form in which it is written into a snapshot. Shapes are the official description's to check.

import path from 'node:path'
import { z } from 'zod'
import type { GuestDescription } from './guest.ts'
import { ownOutput } from './guest.ts'
import { vsockPorts } from './vsock-bridge.ts'

const bucket = z.looseObject({ size: z.number(), refill_time: z.number() })
const limiter = z.looseObject({ bandwidth: bucket.nullish() })

const disk = z.looseObject({
  path: z.string(),
  readonly: z.boolean().default(false),
  id: z.string().nullish(),
  serial: z.string().nullish(),
  rate_limiter_config: limiter.nullish(),
  rate_limit_group: z.string().nullish(),
})

const console = z.looseObject({ mode: z.enum(['Off', 'Pty', 'Tty', 'File', 'Socket', 'Null']), file: z.string().nullish() })

/** With the defaults of what is left out. */
export const configuration = z.looseObject({
  cpus: z.looseObject({ boot_vcpus: z.number(), max_vcpus: z.number() }).default({ boot_vcpus: 1, max_vcpus: 1 }),
  memory: z
    .looseObject({
      size: z.number(),
      shared: z.boolean().default(false),
      hotplug_size: z.number().nullish(),
      hotplug_method: z.enum(['Acpi', 'VirtioMem']).default('Acpi'),
    })
    .prefault({ size: 512 * 1024 ** 2 }),
  payload: z.looseObject({ kernel: z.string().nullish(), initramfs: z.string().nullish(), cmdline: z.string().nullish() }),
  rate_limit_groups: z.array(z.looseObject({ id: z.string(), rate_limiter_config: limiter })).nullish(),
  disks: z.array(disk).nullish(),
  net: z
    .array(z.looseObject({ id: z.string().nullish(), tap: z.string().nullish(), mac: z.string().default('2e:00:00:00:00:01') }))
    .nullish(),
  balloon: z.looseObject({ size: z.number() }).nullish(),
  serial: console.default({ mode: 'Null' }),
  console: console.default({ mode: 'Tty' }),
  vsock: z.looseObject({ cid: z.number(), socket: z.string() }).nullish(),
})

export type Configuration = z.infer<typeof configuration>

/** What the real one writes: every field it knows, `null` where it was left out. */
export function written(config: Configuration): object {
  const absent = {
    rate_limit_groups: null,
    disks: null,
    net: null,
    balloon: null,
    fs: null,
    pmem: null,
    devices: null,
    vsock: null,
    numa: null,
    tpm: null,
  }
  return {
    ...absent,
    ...config,
    disks: (config.disks ?? []).map((one) => ({ rate_limiter_config: null, rate_limit_group: null, vhost_socket: null, ...one })),
  }
}

/** The description knows no `null`: what the real one says so is left out there. */
export function withoutNulls(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutNulls)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, one]) => one !== null)
      .map(([key, one]) => [key, withoutNulls(one)]),
  )
}

/** What is wrong beyond shapes; undefined if nothing is. */
export function whyNotValid(config: Configuration): string | undefined {
  const { cpus, disks, serial, console: screen, rate_limit_groups: groups } = config
  if (cpus.boot_vcpus > cpus.max_vcpus) return 'Max CPUs lower than boot CPUs'
  if (serial.mode === 'Tty' && screen.mode === 'Tty') return 'Console and serial can not both be in TTY mode'
  for (const one of [serial, screen]) if (one.mode === 'File' && (one.file ?? '') === '') return 'Path missing when using file console mode'
  const names = (disks ?? []).map(({ id }) => id).filter((id) => typeof id === 'string')
  if (new Set(names).size < names.length) return 'The identifier of a disk is not unique'
  for (const { rate_limit_group: group } of disks ?? [])
    if (typeof group === 'string' && groups?.some(({ id }) => id === group) !== true) return `Rate limit group ${group} is not defined`
  return undefined
}

/** A guest of QEMU's that has what the configuration says. Pieces of memory that were added, in MiB, are counted in it as if the machine had booted with them. */
export function guestOf(config: Configuration, boots: boolean, pieces: readonly number[] = []): GuestDescription {
  const { payload, net, serial, console: screen } = config
  const [network] = net ?? []
  const boot = {
    kernel: payload.kernel ?? '',
    commandLine: payload.cmdline ?? '',
    ...(typeof payload.initramfs === 'string' ? { initrd: payload.initramfs } : {}),
  }
  const output = outputOf(screen)
  return {
    vcpus: config.cpus.boot_vcpus,
    memoryMib: config.memory.size / 1024 ** 2 - pieces.reduce((sum, mib) => sum + mib, 0),
    room: { vcpus: config.cpus.max_vcpus, memoryMib: (config.memory.hotplug_size ?? 0) / 1024 ** 2 },
    ...(boots ? { boot } : {}),
    disks: (config.disks ?? []).map((one) => ({ path: one.path, readOnly: one.readonly, ...serialOf(one), ...limitOf(one, config) })),
    ...(typeof network?.tap === 'string' ? { network: { tap: network.tap, mac: network.mac } } : {}),
    console: outputOf(serial) ?? '/dev/null',
    ...(output === undefined ? {} : { virtioConsole: output }),
    ports: [...vsockPorts.values()],
  }
}

function outputOf({ mode, file }: z.infer<typeof console>): string | undefined {
  if (mode === 'Tty') return ownOutput
  return mode === 'File' && typeof file === 'string' ? path.resolve(file) : undefined
}

function serialOf({ serial }: z.infer<typeof disk>): { readonly serial?: string } {
  return typeof serial === 'string' ? { serial } : {}
}

function limitOf(one: z.infer<typeof disk>, { rate_limit_groups: groups }: Configuration): { readonly bytesPerSecond?: number } {
  const own = one.rate_limiter_config ?? groups?.find(({ id }) => id === one.rate_limit_group)?.rate_limiter_config
  const { size = 0, refill_time: refill = 0 } = own?.bandwidth ?? {}
  return size > 0 && refill > 0 ? { bytesPerSecond: Math.ceil((size * 1000) / refill) } : {}
}
