// Ports of the host that are published: which are free, and keeping those that no process listens on.

import { createSocket } from 'node:dgram'
import { once, type EventEmitter } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
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
  await using bound = await bindPort({ ...port, hostPort: wanted })
  return bound.port
}

/** Binds the port until it is disposed of; with host port 0 a free one. Connections to it are reset. `port_in_use` if it can't be bound. The socket alone keeps no program running. */
export async function bindPort(port: PublishedPort): Promise<{ readonly port: number } & AsyncDisposable> {
  const { protocol, hostPort, hostAddress } = port
  try {
    if (protocol === 'udp') {
      const socket = createSocket(hostAddress.includes(':') ? 'udp6' : 'udp4').unref()
      socket.bind(hostPort, hostAddress)
      return await listening(socket, socket.address.bind(socket))
    }
    const server = createServer((socket) => socket.resetAndDestroy()).unref()
    server.listen(hostPort, hostAddress)
    return await listening(server, server.address.bind(server))
  } catch (cause) {
    throw portInUse(port, cause)
  }
}

async function listening(
  socket: EventEmitter & { close(): unknown },
  addressOf: () => AddressInfo | string | null,
): Promise<{ readonly port: number } & AsyncDisposable> {
  await once(socket, 'listening')
  const address = addressOf()
  if (address === null || typeof address === 'string') throw new Error('a socket of the internet has an address with a port')
  return {
    port: address.port,
    async [Symbol.asyncDispose]() {
      const closed = once(socket, 'close')
      socket.close()
      await closed
    },
  }
}

function portInUse(port: PublishedPort, cause?: unknown): HypemanError {
  return new HypemanError(
    'port_in_use',
    `can't publish ${port.protocol} port ${port.hostPort} on ${port.hostAddress}: it is taken or not allowed; choose another host_port, or 0 for a free one`,
    { cause },
  )
}
