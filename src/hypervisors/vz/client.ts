// Asks a helper (vz/PROTOCOL.md): a request on its control socket, an answer that is checked by schema, and an end to waiting.

import { HypemanError, type ErrorCode } from '../../api/errors.ts'
import { AnswerTimeout, askUnix, type UnixAnswer } from '../../platform/unix-http.ts'
import { operations, pathOf, refusal, type AnswerOf, type Operation, type RefusalCode, type RequestOf } from './protocol.ts'

/** What a refusal of the helper's is to a caller of the API. */
const codes = {
  bad_request: 'host_unavailable',
  not_found: 'host_unavailable',
  wrong_state: 'conflict',
  failed: 'host_unavailable',
  not_supported: 'not_supported',
  no_space: 'storage_full',
} as const satisfies Record<RefusalCode, ErrorCode>

/** Until a helper must have answered, in milliseconds. What moves a guest's memory takes as long as the disk does. */
const ANSWER_LIMIT_MS = 60_000
const limits: Readonly<Partial<Record<Operation, number>>> = {
  'vmm.ping': 5_000,
  'vm.info': 10_000,
  'vm.snapshot': 600_000,
  'vm.restore': 600_000,
}

export interface AskOptions {
  readonly signal?: AbortSignal | undefined
  /** In place of the operation's own, in milliseconds. */
  readonly limitMs?: number | undefined
}

/** An abort, or an answer that does not come in time, gives up waiting: the operation may still take effect. */
export async function ask<O extends Operation>(
  socket: string,
  operation: O,
  body: RequestOf<O>,
  { signal, limitMs = limits[operation] ?? ANSWER_LIMIT_MS }: AskOptions = {},
): Promise<AnswerOf<O>> {
  const { method } = operations[operation]
  const asked = { socket, method, path: pathOf(operation), body, limitMs, signal }
  const answer = await askUnix(asked).catch((error: unknown) => {
    if (!(error instanceof AnswerTimeout)) throw error
    throw new HypemanError('host_unavailable', `the VZ helper did not answer ${operation} within ${limitMs / 1000} s; stop the instance`, {
      cause: error,
    })
  })
  return read(operation, answer)
}

function read<O extends Operation>(operation: O, { status, text }: UnixAnswer): AnswerOf<O> {
  const value = text === '' ? undefined : parseJson(text)
  if (status >= 400) {
    const said = refusal.safeParse(value)
    if (said.success) throw new HypemanError(codes[said.data.code], `the VZ helper refused ${operation}: ${said.data.message}`)
    throw garbage(operation, status, text)
  }
  const checked = operations[operation].answer.safeParse(value)
  if (status >= 200 && status < 300 && checked.success) return checked.data as AnswerOf<O>
  throw garbage(operation, status, text)
}

function garbage(operation: Operation, status: number, text: string): HypemanError {
  return new HypemanError(
    'host_unavailable',
    `the VZ helper answered ${operation} with status ${status} and ${JSON.stringify(text.slice(0, 200))}, which is not its protocol; build it again (vz/build.sh)`,
  )
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return text // no answer's schema takes it
  }
}
