// Requests as no typed client would send them, and what comes back.

import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { text } from 'node:stream/consumers'
import { WebSocket } from 'ws'
import type { TestServer } from '../server.ts'

export interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly text: string
}

export interface Ask {
  /** JSON, unless it is text or bytes. */
  readonly body?: unknown
  /** In place of the server's own; none: empty. */
  readonly token?: string
  readonly headers?: Readonly<Record<string, string>>
}

/** Operations that answer an upgrade to a WebSocket. */
const upgrades = /^\/instances\/[^/]+\/(?:exec|cp)$/

export async function ask(
  { url, token: own }: Pick<TestServer, 'url' | 'token'>,
  method: string,
  path: string,
  { body, token = own, headers = {} }: Ask = {},
): Promise<Answer> {
  const all = { ...(token === '' ? {} : { authorization: `Bearer ${token}` }), ...headers }
  if (upgrades.test(path)) return await upgrade(url + path, all)
  const type: Readonly<Record<string, string>> =
    body === undefined ? {} : { 'content-type': body instanceof Uint8Array ? 'application/x-tar' : 'application/json' }
  const response = await fetch(url + path, {
    method,
    headers: { ...type, ...all },
    ...(body === undefined
      ? {}
      : { body: body instanceof Uint8Array ? new Blob([new Uint8Array(body)]) : typeof body === 'string' ? body : JSON.stringify(body) }),
  })
  return { status: response.status, headers: Object.fromEntries(response.headers), text: await response.text() }
}

async function upgrade(url: string, headers: Readonly<Record<string, string>>): Promise<Answer> {
  const socket = new WebSocket(url.replace('http', 'ws'), { headers })
  const [, response] = (await Promise.race([
    once(socket, 'unexpected-response'),
    once(socket, 'open').then(() => {
      socket.terminate()
      throw new Error(`${url} was opened`)
    }),
  ])) as [unknown, IncomingMessage]
  return { status: response.statusCode ?? 0, headers: response.headers as Record<string, string>, text: await text(response) }
}
