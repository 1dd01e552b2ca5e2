// Into a guest: binary frames are a file's bytes, `{"type":"end"}` their end, then the result. A directory has no bytes.

import { Readable } from 'node:stream'
import { z } from 'zod'
import type { AgentClient, FileOptions } from '../../agent/contract.ts'
import { SocketGone, type Frame, type FrameSocket } from './frames.ts'
import { wordsOf } from './words.ts'

export interface CopyTo extends FileOptions {
  readonly path: string
  readonly isDirectory: boolean
}

const endFrame = z.object({ type: z.literal('end') })

export async function copyToGuest(socket: FrameSocket, agent: AgentClient, request: CopyTo, signal: AbortSignal): Promise<void> {
  const upload = new Upload(socket)
  let result: object
  try {
    const bytesWritten = request.isDirectory
      ? await makeDirectory(upload, agent, request, signal)
      : await writeFile(upload, agent, request, signal)
    result = { type: 'result', success: true, bytes_written: bytesWritten }
  } catch (error) {
    if (socket.gone.aborted) throw new SocketGone(error)
    result = { type: 'result', success: false, error: wordsOf(error) }
  }
  await socket.sendText(result)
  // A client that reads nothing until it has sent all would hang if its frames were not taken.
  await upload.passOver()
}

async function makeDirectory(upload: Upload, agent: AgentClient, request: CopyTo, signal: AbortSignal): Promise<number> {
  await upload.passOver()
  await agent.makeDirectory(request.path, request, signal)
  return 0
}

async function writeFile(upload: Upload, agent: AgentClient, request: CopyTo, signal: AbortSignal): Promise<number> {
  const content = Readable.from(upload.content(), { objectMode: false })
  const { bytesWritten } = await agent.writeFile(request.path, request, content, signal)
  return bytesWritten
}

class Upload {
  readonly #socket: FrameSocket
  #ended = false

  constructor(socket: FrameSocket) {
    this.#socket = socket
  }

  /** The bytes until the end frame. Breaks off with the connection, so that the guest keeps nothing of half a file. */
  async *content(): AsyncGenerator<Buffer> {
    while (!this.#ended) {
      const frame = await this.#socket.next()
      if (frame === undefined) throw new SocketGone()
      if (frame.kind === 'binary') yield frame.data
      else this.#end(frame)
    }
  }

  /** Takes what is left without looking at it. */
  async passOver(): Promise<void> {
    while (!this.#ended) {
      const frame = await this.#socket.next()
      if (frame === undefined) return
      if (frame.kind === 'text') this.#end(frame)
    }
  }

  #end(frame: Frame & { readonly kind: 'text' }): void {
    this.#ended = true
    if (!endFrame.safeParse(parseJson(frame.text)).success) throw new Error('unexpected text frame: only {"type":"end"} follows the data')
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined // the caller refuses it
  }
}
