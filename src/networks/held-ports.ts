// Keeps published ports of guests on tap devices from being given to anybody else: rules of the firewall lead to the guest before a program on the host is asked, so nothing but a
// socket of ours tells others that the port is taken. Nothing ever arrives on these sockets while the rules are in force.

import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { portInUse, type PublishedPort } from './ports.ts'

/** Holds all of the ports, or throws `port_in_use` and holds none. Disposing lets them go. */
export async function holdPorts(ports: readonly PublishedPort[]): Promise<AsyncDisposable> {
  await using held = new AsyncDisposableStack()
  for (const port of ports) {
    const hold = port.protocol === 'udp' ? holdUdp : holdTcp
    held.use(
      await hold(port).catch((cause: unknown) => {
        throw portInUse(port, cause)
      }),
    )
  }
  return held.move()
}

async function holdTcp({ hostPort, hostAddress }: PublishedPort): Promise<AsyncDisposable> {
  const server = createServer((socket) => socket.resetAndDestroy())
  server.listen(hostPort, hostAddress)
  await once(server, 'listening')
  server.unref()
  return {
    async [Symbol.asyncDispose]() {
      server.close()
      await once(server, 'close')
    },
  }
}

async function holdUdp({ hostPort, hostAddress }: PublishedPort): Promise<AsyncDisposable> {
  const socket = createSocket('udp4')
  socket.bind(hostPort, hostAddress)
  await once(socket, 'listening')
  socket.unref()
  return {
    async [Symbol.asyncDispose]() {
      socket.close()
      await once(socket, 'close')
    },
  }
}
