// A TCP connection into a guest that is never idle: numbered lines go in, must come back in order, and a gap or an end is an error.

import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { createInterface } from 'node:readline'

/** For the guest: answers each connection to its port 7 with what it sends. Ends when it listens. */
export const echoService =
  '(nc -ll -p 7 -e cat </dev/null >/dev/null 2>&1 &); until cat /proc/net/tcp /proc/net/tcp6 | grep -q ":0007 .* 0A "; do sleep 0.1; done'

export interface EchoStream extends Disposable {
  /** Lines that came back so far. */
  readonly echoed: number
  /** Resolves when as many more lines came back; rejects when the connection broke or an echo was wrong. */
  more(lines: number): Promise<void>
}

/** Connects to a published port behind which `echoService` runs, and keeps lines going there. */
export async function openEchoStream(port: number): Promise<EchoStream> {
  const socket = connect({ host: '127.0.0.1', port })
  await once(socket, 'connect')
  const broken = Promise.withResolvers<never>()
  broken.promise.catch(() => undefined) // told to whoever waits for more
  const waiting = new Set<{ readonly at: number; readonly resolve: () => void }>()
  let echoed = 0
  const send = (): boolean => socket.write(`${echoed + 1}\n`)
  readLines(socket, (line) => {
    if (line !== String(echoed + 1)) return broken.reject(new Error(`${echoed + 1} was sent, ${JSON.stringify(line)} came back`))
    echoed += 1
    for (const one of waiting)
      if (one.at <= echoed) {
        waiting.delete(one)
        one.resolve()
      }
    send()
  })
  socket.on('error', (error) => broken.reject(error))
  socket.on('close', () => broken.reject(new Error(`the connection ended after ${echoed} lines`)))
  send()
  return {
    get echoed() {
      return echoed
    },
    more: (lines) => {
      const { promise, resolve } = Promise.withResolvers<void>()
      waiting.add({ at: echoed + lines, resolve })
      return Promise.race([promise, broken.promise])
    },
    [Symbol.dispose]: () => void socket.destroy(),
  }
}

function readLines(socket: Socket, onLine: (line: string) => void): void {
  createInterface({ input: socket }).on('line', onLine)
}
