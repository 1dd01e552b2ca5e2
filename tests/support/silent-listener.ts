// The other end of a connection that a guest holds to the outside.

import { once } from 'node:events'
import net from 'node:net'

/** Accepts on a port of the host's loopback, which guests in user mode reach as 10.0.2.2, and says and closes nothing. Returns the port. */
export async function listenSilently(undo: AsyncDisposableStack): Promise<number> {
  const sockets = new Set<net.Socket>()
  const listener = net.createServer((socket) => void sockets.add(socket.on('error', () => undefined))).listen(0, '127.0.0.1')
  await once(listener, 'listening')
  undo.defer(async () => {
    for (const socket of sockets) socket.destroy()
    listener.close()
    await once(listener, 'close')
  })
  const address = listener.address()
  return typeof address === 'object' && address !== null ? address.port : 0
}
