// Firecracker's HTTP API on its unix socket: one request, one answer, each within a time.

import { HypemanError } from '../../api/errors.ts'
import { AnswerTimeout, askUnix } from '../../platform/unix-http.ts'

/** Firecracker refused a request; `fault` is its own words. */
class FirecrackerFault extends HypemanError {
  constructor(method: string, path: string, fault: string) {
    super('host_unavailable', `Firecracker refused ${method} ${path}: ${fault}`)
    this.name = 'FirecrackerFault'
  }
}

export function isRefusal(error: unknown): boolean {
  return error instanceof FirecrackerFault
}

/** Until a request must have been answered, in milliseconds. */
const ANSWER_LIMIT_MS = 60_000
/** The same for those that read or write all of a guest's memory. */
export const MEMORY_LIMIT_MS = 600_000

export interface Ask {
  readonly method: 'GET' | 'PUT' | 'PATCH'
  readonly path: string
  readonly body?: object | undefined
  readonly limitMs?: number
  readonly signal?: AbortSignal | undefined
}

/** The answer's content, undefined if it has none. A refusal (`isRefusal`) is `host_unavailable`, what the socket says is not; an abort gives up waiting, and the request may still take effect. */
export async function ask(socket: string, { method, path, body, limitMs = ANSWER_LIMIT_MS, signal }: Ask): Promise<unknown> {
  try {
    const { status, text } = await askUnix({ socket, method, path, body, limitMs, signal })
    if (status >= 200 && status < 300) return text === '' ? undefined : parse(method, path, text)
    throw new FirecrackerFault(method, path, faultOf(text) ?? `status ${status}`)
  } catch (cause) {
    if (!(cause instanceof AnswerTimeout)) throw cause
    throw new HypemanError('host_unavailable', `Firecracker did not answer: ${cause.message}`, { cause })
  }
}

function parse(method: string, path: string, text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new HypemanError(
      'host_unavailable',
      `Firecracker answered ${method} ${path} with something that is no JSON: ${text.slice(0, 80)}`,
      {
        cause,
      },
    )
  }
}

function faultOf(text: string): string | undefined {
  try {
    const parsed: unknown = JSON.parse(text)
    const fault = typeof parsed === 'object' && parsed !== null && 'fault_message' in parsed ? parsed.fault_message : undefined
    return typeof fault === 'string' ? fault : undefined
  } catch {
    return text === '' ? undefined : text.slice(0, 200)
  }
}
