// The unix socket by which a VMM lets the host reach a guest's vsock ports: `CONNECT <port>\n` is answered with `OK <port of the host>\n`, and the connection is the
// guest's from there on. A port that nobody listens on yet ends the connection: it is tried again until the signal aborts.

import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'

/** Nothing tells that a guest listens: it is tried this often, in milliseconds. */
const RETRY_MS = 20
/** Until a guest that is about to listen must have answered; then another attempt is made, in milliseconds. */
const ATTEMPT_MS = 2_000
/** Longer than any first line of an answer, in bytes. */
const LONGEST_LINE_BYTES = 64

/** Connects to a guest's vsock port; what the guest says at once is not lost. Throws the signal's reason. */
export async function connectVsock(socketPath: string, port: number, signal: AbortSignal): Promise<Socket> {
  for (;;) {
    signal.throwIfAborted()
    const socket = await tryPort(socketPath, port, signal)
    if (socket !== undefined) return socket
    await delay(RETRY_MS, undefined, { signal }).catch((error: unknown) => {
      signal.throwIfAborted()
      throw error
    })
  }
}

/** Undefined where the guest does not listen, or the VMM does not yet. */
async function tryPort(socketPath: string, port: number, signal: AbortSignal): Promise<Socket | undefined> {
  const socket = connect({ path: socketPath, allowHalfOpen: false })
  const attempt = AbortSignal.any([signal, AbortSignal.timeout(ATTEMPT_MS)])
  const onAbort = (): void => void socket.destroy()
  attempt.addEventListener('abort', onAbort, { once: true })
  // What happens to it later is its owner's to hear.
  const ignore = (): void => undefined
  socket.on('error', ignore)
  try {
    await once(socket, 'connect', { signal: attempt })
    socket.write(`CONNECT ${port}\n`)
    const line = await firstLine(socket, attempt)
    if (/^OK \d+$/.test(line)) {
      socket.off('error', ignore)
      return socket
    }
  } catch {
    // Refused, reset, ended or too slow: none of it says more than that nobody listens, and the process's end is seen by its owner.
  } finally {
    attempt.removeEventListener('abort', onAbort)
  }
  socket.destroy()
  signal.throwIfAborted()
  return undefined
}

/** Reads to the end of the first line; what follows it is read next. */
async function firstLine(socket: Socket, signal: AbortSignal): Promise<string> {
  let read = Buffer.alloc(0)
  for (;;) {
    await once(socket, 'readable', { signal })
    for (let chunk = socket.read() as Buffer | null; chunk !== null; chunk = socket.read() as Buffer | null) {
      read = Buffer.concat([read, chunk])
      const end = read.indexOf('\n')
      if (end < 0) continue
      socket.unshift(read.subarray(end + 1))
      return read.toString('latin1', 0, end)
    }
    if (read.length > LONGEST_LINE_BYTES) return ''
    if (socket.readableEnded || socket.destroyed) return ''
  }
}
