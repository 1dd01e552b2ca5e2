// What a guest on QEMU has read, written, received and sent since its process began.

import { readFile } from 'node:fs/promises'
import { z } from 'zod'
import type { Qmp } from './qmp.ts'

export interface DiskTraffic {
  readonly readBytes: number
  readonly writtenBytes: number
  readonly reads: number
  readonly writes: number
}

export interface NetworkTraffic {
  readonly receivedBytes: number
  readonly sentBytes: number
  readonly received: number
  readonly sent: number
}

export interface GuestTraffic {
  /** In the order of the description's disks. */
  readonly disks: readonly DiskTraffic[]
  /** Undefined for a guest without a network. */
  readonly network: NetworkTraffic | undefined
}

const stats = z.object({ rd_bytes: z.int(), wr_bytes: z.int(), rd_operations: z.int(), wr_operations: z.int() })
const blockStats = z.array(z.object({ device: z.string(), stats }))

/** `before`: what the tap device had counted when the process began, for it outlives processes. */
export async function guestTraffic(
  qmp: Qmp,
  disks: number,
  tap: string | undefined,
  before: NetworkTraffic | undefined,
): Promise<GuestTraffic> {
  const said = blockStats.parse(await qmp.command('query-blockstats'))
  const now = tap === undefined ? undefined : await tapTraffic(tap)
  return {
    disks: Array.from({ length: disks }, (_, place) => {
      const found = said.find(({ device }) => device === `disk${place}`)
      if (found === undefined) throw new Error(`QEMU does not count for disk${place}`)
      const { rd_bytes: readBytes, wr_bytes: writtenBytes, rd_operations: reads, wr_operations: writes } = found.stats
      return { readBytes, writtenBytes, reads, writes }
    }),
    network:
      now === undefined || before === undefined
        ? undefined
        : {
            receivedBytes: now.receivedBytes - before.receivedBytes,
            sentBytes: now.sentBytes - before.sentBytes,
            received: now.received - before.received,
            sent: now.sent - before.sent,
          },
  }
}

/** As the guest sees it: what the host's device has sent, the guest has received. */
export async function tapTraffic(tap: string): Promise<NetworkTraffic> {
  const count = async (name: string): Promise<number> => Number(await readFile(`/sys/class/net/${tap}/statistics/${name}`, 'utf8'))
  return {
    receivedBytes: await count('tx_bytes'),
    sentBytes: await count('rx_bytes'),
    received: await count('tx_packets'),
    sent: await count('rx_packets'),
  }
}
