// One request over a connection of its own, byte for byte as it is given, and the answer; of a stream that goes on, its head.

import { request } from 'node:http'
import type { FuzzRequest } from './requests.ts'

export interface Answer {
  readonly status: number
  readonly type: string
  readonly requestId: string | undefined
  /** Undefined of a stream that was left. */
  readonly text: string | undefined
}

/** How long an answer may take. Nothing that is asked here takes long; the machine may be busy. */
const LIMIT_MS = 30_000

export async function send(url: string, token: string, asked: FuzzRequest, target: string): Promise<Answer> {
  const { promise, resolve, reject } = Promise.withResolvers<Answer>()
  const { hostname, port } = new URL(url)
  const length = asked.body === undefined ? {} : { 'content-length': String(asked.body.length) }
  const headers = { ...length, authorization: `Bearer ${token}`, connection: 'keep-alive', ...asked.headers }
  const sent = request({ hostname, port, method: asked.method, path: target, headers, agent: false })
  const limit = setTimeout(() => sent.destroy(new Error(`no answer within ${LIMIT_MS} ms`)), LIMIT_MS)
  sent.once('response', (response) => {
    const { statusCode: status = 0, headers: got } = response
    const type = got['content-type'] ?? ''
    const id = got['x-request-id']
    const head = { status, type, requestId: typeof id === 'string' ? id : undefined }
    if (status === 200 && type.startsWith('text/event-stream') && goesOn(target)) {
      resolve({ ...head, text: undefined })
      response.destroy()
      return
    }
    const chunks: Buffer[] = []
    response.on('data', (chunk: Buffer) => chunks.push(chunk))
    response.once('end', () => resolve({ ...head, text: Buffer.concat(chunks).toString('utf8') }))
    response.once('error', reject)
  })
  sent.on('error', reject)
  sent.end(asked.body)
  return promise.finally(() => {
    clearTimeout(limit)
    sent.destroy()
  })
}

function goesOn(target: string): boolean {
  return target.startsWith('/images/events') || /[?&]follow=(true|1)/i.test(target)
}
