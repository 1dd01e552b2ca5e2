// What a Firecracker is told before its guest starts, by request: shapes are the official description's to check, what they mean is here.

import { accessSync, constants, existsSync, readSync, openSync, closeSync } from 'node:fs'
import { z } from 'zod'
import type { GuestDescription } from './guest.ts'

const bucket = z.object({ size: z.number(), refill_time: z.number(), one_time_burst: z.number().optional() })
export const rateLimiter = z.object({ bandwidth: bucket.nullish(), ops: bucket.nullish() })

export const drive = z.object({
  drive_id: z.string(),
  is_root_device: z.boolean(),
  is_read_only: z.boolean().default(false),
  path_on_host: z.string(),
  rate_limiter: rateLimiter.nullish(),
})

export const machineConfig = z.object({
  vcpu_count: z.number().default(1),
  mem_size_mib: z.number().default(128),
  smt: z.boolean().default(false),
  track_dirty_pages: z.boolean().default(false),
})

export const networkInterface = z.object({
  iface_id: z.string(),
  host_dev_name: z.string(),
  guest_mac: z.string().optional(),
  rx_rate_limiter: rateLimiter.nullish(),
  tx_rate_limiter: rateLimiter.nullish(),
})

export const vsock = z.object({ guest_cid: z.number(), uds_path: z.string() })
export const balloon = z.object({ amount_mib: z.number(), deflate_on_oom: z.boolean(), stats_polling_interval_s: z.number().default(0) })
export const balloonUpdate = balloon.pick({ amount_mib: true })

/** Guests of the stand-in have no driver for it: they give nothing. */
export function balloonStatistics({ amount_mib: target }: z.infer<typeof balloon>): object {
  return { target_pages: target * 256, actual_pages: 0, target_mib: target, actual_mib: 0 }
}

export const bootSource = z.object({ kernel_image_path: z.string(), initrd_path: z.string().optional(), boot_args: z.string().default('') })

/** All but where it boots from: what a snapshot's state holds. */
export const configuration = z.object({
  machine: machineConfig,
  drives: z.array(drive),
  networks: z.array(networkInterface),
  vsock: vsock.optional(),
  balloon: balloon.optional(),
  entropy: z.boolean(),
})

export type Configuration = z.infer<typeof configuration>

/** `Cannot open` in words like the real one's; undefined if the file can be used. */
export function whyNotOpened(file: string, readOnly: boolean): string | undefined {
  try {
    accessSync(file, readOnly ? constants.R_OK : constants.R_OK | constants.W_OK)
    return undefined
  } catch {
    return existsSync(file) ? 'Permission denied (os error 13)' : 'No such file or directory (os error 2)'
  }
}

/** What the real loader takes on x86-64: an ELF file. */
export function isElf(file: string): boolean {
  const descriptor = openSync(file, 'r')
  try {
    const start = Buffer.alloc(4)
    readSync(descriptor, start, 0, 4, 0)
    return start.equals(Buffer.from('\x7fELF', 'latin1'))
  } finally {
    closeSync(descriptor)
  }
}

/** Bytes a second of a drive's limiter; undefined: no limit. */
export function bytesPerSecond(limiter: z.infer<typeof rateLimiter> | null | undefined): number | undefined {
  const { size = 0, refill_time: refill = 0 } = limiter?.bandwidth ?? {}
  return size > 0 && refill > 0 ? Math.ceil((size * 1000) / refill) : undefined
}

/** The root device comes first, as the real one attaches it. */
export function inOrder(drives: Configuration['drives']): Configuration['drives'] {
  return [...drives.filter(({ is_root_device: root }) => root), ...drives.filter(({ is_root_device: root }) => !root)]
}

/** What `GET /vm/config` tells. */
export function fullConfig({ machine, drives, networks, vsock: socket, balloon: pages, entropy }: Configuration): object {
  return {
    'machine-config': machine,
    drives: inOrder(drives).map(({ rate_limiter: limiter, ...one }) =>
      limiter === null || limiter === undefined ? one : { ...one, rate_limiter: limiter },
    ),
    'network-interfaces': networks,
    ...(socket === undefined ? {} : { vsock: socket }),
    ...(pages === undefined ? {} : { balloon: pages }),
    ...(entropy ? { entropy: {} } : {}),
  }
}

/** What the real one has on x86-64, less one each for its generation ID and its clock. */
const INTERRUPTS = 19 - 2

/** Why a machine can't have so many devices: each takes an interrupt. */
export function whyTooMany({ drives, networks, vsock: socket, balloon: pages, entropy }: Configuration): string | undefined {
  const devices = drives.length + networks.length + [socket !== undefined, pages !== undefined, entropy].filter(Boolean).length
  return devices <= INTERRUPTS ? undefined : 'Failed to allocate requested resource: The requested resource is not available.'
}

export function guestOf(
  { machine, drives, networks }: Configuration,
  parts: Pick<GuestDescription, 'console' | 'ports' | 'boot'>,
): GuestDescription {
  const [network] = networks
  return {
    ...parts,
    vcpus: machine.vcpu_count,
    memoryMib: machine.mem_size_mib,
    disks: inOrder(drives).map((one) => {
      const limit = bytesPerSecond(one.rate_limiter)
      return { path: one.path_on_host, readOnly: one.is_read_only, ...(limit === undefined ? {} : { bytesPerSecond: limit }) }
    }),
    ...(network === undefined ? {} : { network: { tap: network.host_dev_name, mac: network.guest_mac ?? '06:00:00:00:00:01' } }),
  }
}
