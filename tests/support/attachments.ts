// A network of guests on the real host for tests, and guests that are attached to it without a VMM.

import assert from 'node:assert/strict'
import { open as openFile } from 'node:fs/promises'
import { pino } from 'pino'
import { createHostNetwork, type Attachment, type HostNetwork } from '../../src/networks/host-network.ts'
import { allocatePorts, type PublishedPort } from '../../src/networks/ports.ts'
import { newId } from '../../src/platform/ids.ts'
import { ioctl, tapRequest, TUNSETIFF } from '../../src/platform/ioctl.ts'
import { parseSubnet } from '../../src/platform/ipv4.ts'
import { devicesBelow, rulesBelow } from './host-network.ts'

const log = pino({ level: 'silent' })

/** A data directory that is only a name here. */
export const freshRoot = (): string => `/nowhere/${newId()}`

export function open(root: string, cidr = '10.214.0.0/24'): HostNetwork {
  return createHostNetwork(root, { subnet: parseSubnet(cidr) ?? assert.fail(cidr), egressPort: 4974 }, log)
}

export const free = {
  guestPort: 80,
  hostPort: 0,
  protocol: 'tcp',
  hostAddress: '127.0.0.1',
  automatic: true,
} as const satisfies PublishedPort

export async function anAttachment(
  network: HostNetwork,
  ports: readonly PublishedPort[] = [],
  others: readonly Attachment[] = [],
): Promise<Attachment> {
  using reserved = await network.reserveAddress((address) => others.some((other) => other.address === address))
  using allocated = await allocatePorts(ports)
  const limits = { downloadBytesPerSecond: null, uploadBytesPerSecond: null }
  return { id: newId(), address: reserved.address, ports: allocated.ports, egress: null, ...limits }
}

/** Lines of the host's rules that lead to a guest. */
export const leadingTo = async (root: string, address: string | null): Promise<number> => {
  const chain = /-j (HYPEMAN-\w+-PORTS)$/m.exec((await rulesBelow(root)).join('\n'))?.[1]
  return chain === undefined
    ? 0
    : (await rulesBelow(root, `-A ${chain} `)).filter((line) => line.includes(`--to-destination ${address}:`)).length
}

/** Has a device as its VMM has it; it can't be removed until that is disposed of. */
export async function useOf(root: string, id: string): Promise<AsyncDisposable> {
  const [device] = (await devicesBelow(root)).filter(({ alias }) => alias.endsWith(id))
  const file = await openFile('/dev/net/tun', 'r+')
  assert.equal(ioctl(file.fd, TUNSETIFF, tapRequest(device?.name ?? '')), 0)
  return file
}
