// First frames of the exec and copy WebSockets: what is no first frame is refused in words, and whatever comes, the connection ends when the client wants it to.

import { once } from 'node:events'
import fc from 'fast-check'
import { WebSocket, type RawData } from 'ws'
import { oddText, oddValue } from './values.ts'
import type { FuzzTarget } from './run.ts'

export interface FirstFrame {
  readonly data: string | Buffer
  /** Whether it can't be taken for an order. */
  readonly isRefused: boolean
}

/** How long a refusal or a good-bye may take. */
const LIMIT_MS = 30_000

const refusedText = fc.oneof(
  fc.constantFrom('', '{', 'nul', '[', '"', '\ufeff{}', '{"command":["a"]', '['.repeat(100_000), '5', 'null', '[]', 'true', '"{}"'),
  fc.constantFrom(
    '{"command":"ls","direction":5}',
    '{"command":[5],"guest_path":[]}',
    '{"tty":"x","direction":"up"}',
    '{"rows":-1,"direction":null}',
  ),
  fc.constantFrom(
    '{"timeout":-1,"guest_path":null}',
    '{"timeout":1e308,"direction":"sideways","guest_path":"/"}',
    '{"env":{"A":5},"direction":{}}',
  ),
)

/** Orders for both kinds, with fields that are wrong, odd or unknown. */
const order = fc.record(
  {
    command: fc.oneof(fc.constantFrom(['memory'], ['disk'], [], ['\0'], ['nobody']), oddValue),
    tty: fc.boolean(),
    env: fc.dictionary(oddText, oddText, { maxKeys: 3 }),
    cwd: oddText,
    timeout: fc.constantFrom(0, 1, 0.001),
    direction: fc.constantFrom('from', 'to', 'both'),
    guest_path: fc.oneof(oddText, fc.constant('/etc/hosts')),
    is_dir: fc.boolean(),
    mode: fc.constantFrom(0, 420, -1, 1e9),
    unknown: oddValue,
  },
  { requiredKeys: [] },
)

export const firstFrames: fc.Arbitrary<FirstFrame> = fc.oneof(
  refusedText.map((data) => ({ data, isRefused: true })),
  fc.uint8Array({ maxLength: 40 }).map((bytes) => ({ data: Buffer.from(bytes), isRefused: true })),
  order.map((value) => ({ data: JSON.stringify(value), isRefused: false })),
)

/** What is wrong with how a connection went, one sentence each. */
export async function sendFirstFrame({ url, token }: FuzzTarget, path: string, { data, isRefused }: FirstFrame): Promise<string[]> {
  const socket = new WebSocket(`${url.replace('http', 'ws')}${path}`, { headers: { authorization: `Bearer ${token}` } })
  const limit = AbortSignal.timeout(LIMIT_MS)
  const texts: string[] = []
  const told = Promise.withResolvers<void>()
  socket.on('message', (message: RawData, isBinary: boolean) => {
    if (!isBinary) texts.push((message as Buffer).toString('utf8'))
    told.resolve()
  })
  const closed = once(socket, 'close', { signal: limit })
  try {
    await once(socket, 'open', { signal: limit })
    socket.send(data)
    if (isRefused) {
      await closed
      return complaintsAbout(texts)
    }
    // An order may have nothing to say; a ping that is answered tells that it was taken.
    socket.ping()
    await Promise.race([told.promise, once(socket, 'pong', { signal: limit })])
    socket.close()
    await closed
    return texts.flatMap((text) => (parsed(text) === undefined ? [`a text frame that is no JSON: ${text.slice(0, 200)}`] : []))
  } catch (error) {
    return [`${limit.aborted ? `not at its end within ${LIMIT_MS} ms` : String(error)} (${texts.join(' ')})`]
  } finally {
    socket.terminate()
  }
}

function complaintsAbout(texts: readonly string[]): string[] {
  const [text, ...more] = texts
  if (text === undefined) return ['a first frame that is none was refused without a word']
  const said = parsed(text)
  const words: unknown =
    typeof said === 'object' && said !== null ? (Reflect.get(said, 'error') ?? Reflect.get(said, 'message')) : undefined
  if (typeof words !== 'string' || words === '') return [`a refusal without words: ${text}`]
  if (/\n\s+at |node_modules|\.ts:\d+/.test(words)) return [`a refusal with a stack trace: ${words}`]
  return more.length === 0 ? [] : [`more than one answer: ${texts.join(' ')}`]
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined // which the caller names
  }
}
