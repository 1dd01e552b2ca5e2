// The host's side of a VMM's vsock device: a unix socket on which a client says `CONNECT <port>`, is told `OK <host port>`, and then speaks to the guest. The guest has a virtio-serial port for
// each vsock port. A port takes one connection at a time here: the next one ends it, as the agent's protocol has the next one take over.

import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Guest } from './guest.ts'

export interface VsockBridge {
  /** Ends all connections, as a snapshot or a restore does; the socket listens on. */
  reset(): void
  /** Ends everything; the socket's file stays, as a VMM's does that ended. */
  close(): void
}

/** Virtio-serial ports by vsock port: under these names the guest agent looks for what it otherwise listens for on vsock. */
export const vsockPorts: ReadonlyMap<number, string> = new Map([
  [1024, 'org.hypeman.agent.0'],
  [1025, 'org.hypeman.log.1'],
])

/** Longest first line, in bytes. */
const LONGEST_LINE = 32

/** Listens on the path, which must not exist. */
export async function openVsock(socketPath: string, guest: () => Guest | undefined): Promise<VsockBridge> {
  const connections = new Map<number, Socket>()
  let nextHostPort = 1024
  const all = new Set<Socket>()
  const server = createServer((socket) => {
    all.add(socket)
    socket.on('error', () => undefined) // the client has gone: `close` follows
    socket.on('close', () => all.delete(socket))
    readLine(socket, (line, rest) => {
      const port = Number(/^CONNECT (\d+)$/.exec(line)?.[1])
      connect(port, socket, rest).catch(() => socket.destroy())
    })
  })

  /** Nobody listens on a port that the guest has not opened: the connection is ended without an answer. */
  const connect = async (port: number, socket: Socket, rest: Buffer): Promise<void> => {
    const name = vsockPorts.get(port)
    const stream = name === undefined ? undefined : await guest()?.port(name)
    if (stream === undefined || socket.destroyed) return void socket.destroy()
    connections.get(port)?.destroy()
    connections.set(port, socket)
    socket.write(`OK ${nextHostPort++}\n`)
    if (rest.length > 0) stream.write(rest)
    join(socket, stream)
  }

  server.listen(socketPath)
  await once(server, 'listening')
  const reset = (): void => {
    for (const socket of all) socket.destroy()
  }
  return {
    reset,
    close() {
      reset()
      server.close()
    },
  }
}

/** Both ways, each as fast as its reader. */
function join(socket: Socket, stream: Duplex): void {
  const toGuest = (data: Buffer): void => {
    if (stream.write(data)) return
    socket.pause()
    stream.once('drain', () => socket.resume())
  }
  const toHost = (data: Buffer): void => {
    if (socket.write(data)) return
    stream.pause()
    socket.once('drain', () => stream.resume())
  }
  socket.on('data', toGuest)
  stream.on('data', toHost)
  socket.once('close', () => {
    stream.off('data', toHost)
    stream.resume()
  })
}

function readLine(socket: Socket, take: (line: string, rest: Buffer) => void): void {
  let seen = Buffer.alloc(0)
  const onData = (data: Buffer): void => {
    seen = Buffer.concat([seen, data])
    const end = seen.indexOf(0x0a)
    if (end < 0 && seen.length > LONGEST_LINE) socket.destroy()
    if (end < 0) return
    socket.off('data', onData)
    take(seen.toString('latin1', 0, end), seen.subarray(end + 1))
  }
  socket.on('data', onData)
}
