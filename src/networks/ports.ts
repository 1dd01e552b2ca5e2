// Ports of the host that are published: which are free, and keeping those that no process listens on.

import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { HypemanError } from '../api/errors.ts'

/** A port to publish; host port 0 asks for a free one. */
export interface PublishedPort {
  readonly guestPort: number
  readonly hostPort: number
  readonly protocol: 'tcp' | 'udp'
  readonly hostAddress: string
  readonly automatic: boolean
}

/** Ports handed out, but not yet bound by the VMM they are for. */
const promised = new Set<string>()

/**
 * Gives every automatic port a free host port, and checks that the others are free; `port_in_use` names the one that isn't.
 * The ports stay promised until the result is disposed of, which the caller does once the VMM listens on them.
 */
export async function allocatePorts(ports: readonly PublishedPort[]): Promise<{ readonly ports: readonly PublishedPort[] } & Disposable> {
  const taken: string[] = []
  const release = (): void => taken.forEach((key) => promised.delete(key))
  const allocated: PublishedPort[] = []
  try {
    for (const port of ports) {
      const hostPort = await bindOnce(port, taken)
      allocated.push({ ...port, hostPort })
    }
  } catch (error) {
    release()
    throw error
  }
  return { ports: allocated, [Symbol.dispose]: release }
}

/** Binds the port for a moment; returns its number. */
async function bindOnce(port: PublishedPort, taken: string[]): Promise<number> {
  const wanted = port.automatic ? 0 : port.hostPort
  for (;;) {
    const found = await probe(port, wanted)
    const key = `${port.protocol}/${port.hostAddress}/${found}`
    if (!promised.has(key)) {
      promised.add(key)
      taken.push(key)
      return found
    }
    if (wanted !== 0) throw portInUse(port)
  }
}

async function probe(port: PublishedPort, wanted: number): Promise<number> {
  try {
    if (port.protocol === 'udp') {
      const socket = createSocket(port.hostAddress.includes(':') ? 'udp6' : 'udp4')
      socket.bind(wanted, port.hostAddress)
      await once(socket, 'listening')
      const found = socket.address().port
      socket.close()
      await once(socket, 'close')
      return found
    }
    const server = createServer()
    server.listen(wanted, port.hostAddress)
    await once(server, 'listening')
    const address = server.address()
    server.close()
    await once(server, 'close')
    if (address === null || typeof address === 'string') throw new Error('the probe socket has no port')
    return address.port
  } catch (cause) {
    throw portInUse(port, cause)
  }
}

export function portInUse(port: PublishedPort, cause?: unknown): HypemanError {
  return new HypemanError(
    'port_in_use',
    `can't publish ${port.protocol} port ${port.hostPort} on ${port.hostAddress}: it is taken or not allowed; choose another host_port, or 0 for a free one`,
    { cause },
  )
}
