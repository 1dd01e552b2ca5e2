// Exec and copy as official clients speak them: a WebSocket, a first frame of JSON, then frames. For tests that must pause it, ping it or break it off.

import { once } from 'node:events'
import { WebSocket } from 'ws'
import type { TestServer } from './server.ts'
import { until } from './until.ts'

export interface ExecSocket {
  readonly socket: WebSocket
  /** What has come so far. */
  output(): string
  /** Waits until the output has it. */
  saw(text: string): Promise<void>
  /** The text frame at the end, when the server has closed the connection. */
  readonly ended: Promise<{ readonly exitCode: number }>
}

type Endpoint = Pick<TestServer, 'url' | 'token'>

/** An upgraded connection on which the first frame is sent. */
export async function openSocket(server: Endpoint, target: string, first: object): Promise<WebSocket> {
  const socket = new WebSocket(`${server.url.replace('http', 'ws')}${target}`, { headers: { authorization: `Bearer ${server.token}` } })
  await once(socket, 'open')
  socket.send(JSON.stringify(first))
  return socket
}

export async function openExecSocket(server: Endpoint, id: string, start: object): Promise<ExecSocket> {
  const socket = await openSocket(server, `/instances/${id}/exec`, start)
  let output = ''
  const texts: string[] = []
  socket.on('message', (data: Buffer, isBinary) => {
    if (isBinary) output += data.toString('latin1')
    else texts.push(data.toString('utf8'))
  })
  const ended = Promise.withResolvers<{ readonly exitCode: number }>()
  ended.promise.catch(() => undefined) // for who asks
  socket.once('close', () => {
    const [text, ...more] = texts
    if (text === undefined || more.length > 0) ended.reject(new Error(`${texts.length} text frames instead of one`))
    else ended.resolve(JSON.parse(text) as { exitCode: number })
  })
  socket.on('error', ended.reject)
  return {
    socket,
    output: () => output,
    saw: (text) => until(`the output has ${JSON.stringify(text)}`, () => output.includes(text), 120_000),
    ended: ended.promise,
  }
}
