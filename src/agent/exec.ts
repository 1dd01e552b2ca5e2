// A program in the guest: frames of the exec protocol over an upgraded stream (guest/protocol.md, POST /v1/exec).

import type { Duplex } from 'node:stream'
import { HypemanError } from '../api/errors.ts'
import type { ExecExit, ExecRequest, ExecSession } from './contract.ts'
import { FrameReader, frames, frameOf, LONGEST_STDIN, parseExit, type OutputChunk } from './exec-frames.ts'
import { upgrade } from './request.ts'
import type { YamuxSession } from './yamux.ts'

export async function startExec(session: YamuxSession, request: ExecRequest, signal: AbortSignal | undefined): Promise<ExecSession> {
  const { socket, head } = await upgrade(session, '/v1/exec', 'hypeman-exec/1', signal)
  const exit = Promise.withResolvers<ExecExit>()
  exit.promise.catch(() => undefined) // whoever asks for the exit is told; nobody has to ask
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
  try {
    await sendFrame(socket, frames.start, Buffer.from(JSON.stringify(start)))
  } catch (error) {
    socket.destroy()
    throw error
  }
  return {
    output: readOutput(socket, head, exit),
    exit: exit.promise,
    async write(data) {
      for (let at = 0; at < data.length; at += LONGEST_STDIN) await sendFrame(socket, frames.stdin, data.subarray(at, at + LONGEST_STDIN))
    },
    endInput: () => sendFrame(socket, frames.stdinEnd, Buffer.alloc(0)),
    resize: (rows, cols) => sendFrame(socket, frames.resize, Buffer.from(JSON.stringify({ rows, cols }))),
    signal: (name) => sendFrame(socket, frames.signal, Buffer.from(JSON.stringify({ signal: name }))),
    hangUp() {
      socket.destroy()
      exit.reject(broken(new Error('it was hung up')))
    },
  }
}

async function* readOutput(socket: Duplex, head: Buffer, exit: PromiseWithResolvers<ExecExit>): AsyncGenerator<OutputChunk> {
  const reader = new FrameReader()
  try {
    for await (const chunk of prepend(head, socket)) {
      for (const frame of reader.take(chunk)) {
        if (frame.type === frames.exit) {
          exit.resolve(parseExit(frame.data))
          return
        }
        yield { stream: frame.type === frames.stdout ? 'stdout' : 'stderr', data: frame.data }
      }
    }
    throw new Error('the stream ended')
  } catch (error) {
    exit.reject(broken(error))
    throw broken(error)
  } finally {
    exit.reject(broken(new Error('its output was not read to the end')))
    socket.destroy()
  }
}

function broken(cause: unknown): HypemanError {
  return new HypemanError('guest_unreachable', 'the connection to the program in the guest broke before it ended', { cause })
}

async function* prepend(head: Buffer, socket: Duplex): AsyncGenerator<Buffer> {
  if (head.length > 0) yield head
  yield* socket as AsyncIterable<Buffer>
}

/** Resolves when the guest has room for more. */
function sendFrame(socket: Duplex, type: number, payload: Buffer): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  socket.write(frameOf(type, payload), (error) => {
    if (error === undefined || error === null) resolve()
    else reject(new HypemanError('guest_unreachable', 'the program in the guest takes no more input', { cause: error }))
  })
  return promise
}
