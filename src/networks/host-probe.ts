// Asks a program of a guest from the host, as the guest's own agent does it elsewhere: by a connection, or by one HTTP request of whose answer no more than the head is read.
// It follows nothing, keeps nothing open, and asks whether a program answers, not who it is.

import { once } from 'node:events'
import { request, type IncomingMessage } from 'node:http'
import { connect, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { connect as connectSecurely } from 'node:tls'
import type { ProbeAnswer, ProbeRequest } from '../agent/contract.ts'
import { messageOf } from '../platform/flow.ts'

interface ProbeOptions {
  /** What the program is told that it was asked as: address and port in the guest. */
  readonly authority: string
  readonly signal: AbortSignal
  /** Called with the host's own port of the connection, before anybody can see that; disposed of when the connection is closed. */
  readonly onPort: (port: number) => Disposable
}

/** That it can't be reached is an answer. Throws only the signal's reason. */
export async function probeFromHost(asked: ProbeRequest, { authority, signal, onPort }: ProbeOptions): Promise<ProbeAnswer> {
  const limit = AbortSignal.timeout(asked.timeoutMs)
  const either = AbortSignal.any([signal, limit])
  try {
    await using connection = await open(asked, either, onPort)
    if (asked.type === 'tcp') return {}
    const stream = asked.type === 'https' ? await secured(connection.socket, either) : connection.socket
    return { status: await statusOf(stream, asked.path, authority, either) }
  } catch (error) {
    signal.throwIfAborted()
    return { error: limit.aborted ? `no answer within ${asked.timeoutMs} ms` : messageOf(error) }
  }
}

/** It is ended by a reset, which leaves nothing on the host: one that is closed politely would be remembered for minutes, as a use of the guest. */
async function open(
  { host, port }: ProbeRequest,
  signal: AbortSignal,
  onPort: ProbeOptions['onPort'],
): Promise<{ readonly socket: Socket } & AsyncDisposable> {
  await using undo = new AsyncDisposableStack()
  const socket = connect({ host, port })
  let own: Disposable | undefined
  socket.on('error', () => undefined) // whoever waits for it is told; a reset in the last moment is nobody's business
  // The event comes right before the kernel is told to connect, which gives the socket its port.
  socket.once('connectionAttempt', () =>
    process.nextTick(() => {
      if (socket.localPort !== undefined) own = onPort(socket.localPort)
    }),
  )
  undo.defer(async () => {
    if (!socket.closed) {
      const closed = once(socket, 'close')
      if (socket.connecting) socket.destroy()
      else socket.resetAndDestroy()
      await closed
    }
    own?.[Symbol.dispose]()
  })
  await once(socket, 'connect', { signal })
  const held = undo.move()
  return { socket, [Symbol.asyncDispose]: () => held.disposeAsync() }
}

async function secured(socket: Socket, signal: AbortSignal): Promise<Duplex> {
  const secure = connectSecurely({ socket, rejectUnauthorized: false })
  secure.on('error', () => undefined) // who waits for it, or for the answer, is told
  await once(secure, 'secureConnect', { signal })
  return secure
}

async function statusOf(stream: Duplex, path: string, authority: string, signal: AbortSignal): Promise<number> {
  const asked = request({
    createConnection: () => stream,
    path,
    headers: { host: authority, 'user-agent': 'hypeman', connection: 'close' },
  })
  asked.on('error', () => undefined) // who waits for the answer is told, and its rest nobody waits for
  asked.end()
  const [answer] = (await once(asked, 'response', { signal })) as [IncomingMessage]
  return answer.statusCode ?? 0
}
