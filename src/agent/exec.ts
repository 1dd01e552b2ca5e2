// A program in the guest: frames of the exec protocol over an upgraded stream (guest/protocol.md, POST /v1/exec).

import type { Duplex } from 'node:stream'
import { z } from 'zod'
import { HypemanError } from '../api/errors.ts'
import type { ExecExit, ExecRequest, ExecSession } from './contract.ts'
import { upgrade } from './request.ts'
import type { YamuxSession } from './yamux.ts'

const frames = { start: 0, stdin: 1, stdinEnd: 2, resize: 3, signal: 4, stdout: 5, stderr: 6, exit: 7 } as const
const HEADER_BYTES = 5
const LONGEST_PAYLOAD = 65_536

const exitBody = z.object({
  exit_code: z.int(),
  signal: z.string().optional(),
  timed_out: z.boolean().optional(),
  error: z.string().optional(),
})

export async function startExec(session: YamuxSession, request: ExecRequest, signal: AbortSignal | undefined): Promise<ExecSession> {
  const { socket, head } = await upgrade(session, '/v1/exec', 'hypeman-exec/1', signal)
  const exit = Promise.withResolvers<ExecExit>()
  exit.promise.catch(() => undefined) // whoever asks for the exit is told; nobody has to ask
  socket.on('error', () => undefined) // told by the iteration of the output and by writes
  const start = {
    argv: request.argv,
    tty: request.tty,
    env: request.env,
    cwd: request.cwd,
    user: request.user,
    timeout_ms: request.timeoutMs,
    rows: request.rows,
    cols: request.cols,
  }
  await writeFrame(socket, frames.start, Buffer.from(JSON.stringify(start)))
  return {
    output: readOutput(socket, head, exit),
    exit: exit.promise,
    async write(data) {
      for (let at = 0; at < data.length; at += LONGEST_PAYLOAD)
        await writeFrame(socket, frames.stdin, data.subarray(at, at + LONGEST_PAYLOAD))
    },
    endInput: () => writeFrame(socket, frames.stdinEnd, Buffer.alloc(0)),
    resize: (rows, cols) => writeFrame(socket, frames.resize, Buffer.from(JSON.stringify({ rows, cols }))),
    signal: (name) => writeFrame(socket, frames.signal, Buffer.from(JSON.stringify({ signal: name }))),
    hangUp: () => void socket.destroy(),
  }
}

type OutputChunk = { readonly stream: 'stdout' | 'stderr'; readonly data: Buffer }

async function* readOutput(socket: Duplex, head: Buffer, exit: PromiseWithResolvers<ExecExit>): AsyncGenerator<OutputChunk> {
  const broken = (cause?: unknown): HypemanError =>
    new HypemanError('guest_unreachable', 'the connection to the program in the guest broke before it ended', { cause })
  try {
    let rest: Buffer = Buffer.alloc(0)
    for await (const chunk of prepend(head, socket)) {
      rest = Buffer.concat([rest, chunk])
      for (let frame = takeFrame(rest); frame !== undefined; frame = takeFrame(rest)) {
        rest = frame.rest
        if (frame.type === frames.exit) {
          exit.resolve(parseExit(frame.payload))
          return
        }
        if (frame.type !== frames.stdout && frame.type !== frames.stderr) throw new Error(`frame of type ${frame.type}`)
        yield { stream: frame.type === frames.stdout ? 'stdout' : 'stderr', data: frame.payload }
      }
    }
    throw new Error('the stream ended')
  } catch (error) {
    exit.reject(broken(error))
    throw broken(error)
  } finally {
    exit.reject(broken())
    socket.destroy()
  }
}

async function* prepend(head: Buffer, socket: Duplex): AsyncGenerator<Buffer> {
  if (head.length > 0) yield head
  yield* socket as AsyncIterable<Buffer>
}

function takeFrame(bytes: Buffer): { readonly type: number; readonly payload: Buffer; readonly rest: Buffer } | undefined {
  if (bytes.length < HEADER_BYTES) return undefined
  const length = bytes.readUInt32BE(1)
  if (length > LONGEST_PAYLOAD) throw new Error(`frame of ${length} bytes`)
  if (bytes.length < HEADER_BYTES + length) return undefined
  return {
    type: bytes.readUInt8(0),
    payload: bytes.subarray(HEADER_BYTES, HEADER_BYTES + length),
    rest: bytes.subarray(HEADER_BYTES + length),
  }
}

function parseExit(payload: Buffer): ExecExit {
  const { exit_code: exitCode, signal, timed_out: timedOut, error } = exitBody.parse(JSON.parse(payload.toString('utf8')))
  return { exitCode, signal, timedOut, error }
}

function writeFrame(socket: Duplex, type: number, payload: Buffer): Promise<void> {
  const header = Buffer.alloc(HEADER_BYTES)
  header.writeUInt8(type, 0)
  header.writeUInt32BE(payload.length, 1)
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  socket.write(Buffer.concat([header, payload]), (error) => {
    if (error === undefined || error === null) resolve()
    else reject(new HypemanError('guest_unreachable', 'the program in the guest takes no more input', { cause: error }))
  })
  return promise
}
