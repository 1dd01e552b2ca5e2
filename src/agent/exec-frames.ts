// The frames of the exec protocol (guest/protocol.md, POST /v1/exec). Pure; a guest's frames are bounded and checked.

import { z } from 'zod'
import type { ExecExit } from './contract.ts'
import { LONGEST_FRAME } from './yamux-frames.ts'

export const frames = { start: 0, stdin: 1, stdinEnd: 2, resize: 3, signal: 4, stdout: 5, stderr: 6, exit: 7 } as const

const HEADER_BYTES = 5
const LONGEST_PAYLOAD = 65_536
/** With its header it fills one frame of the multiplexer. */
export const LONGEST_STDIN = LONGEST_FRAME - HEADER_BYTES

export interface OutputChunk {
  readonly stream: 'stdout' | 'stderr'
  readonly data: Buffer
}

/** Output as it comes, which need not be a whole frame; an exit whole. */
export interface GuestFrame {
  readonly type: typeof frames.stdout | typeof frames.stderr | typeof frames.exit
  readonly data: Buffer
}

export function frameOf(type: number, payload: Buffer): Buffer {
  const header = Buffer.alloc(HEADER_BYTES)
  header.writeUInt8(type, 0)
  header.writeUInt32BE(payload.length, 1)
  return payload.length === 0 ? header : Buffer.concat([header, payload])
}

/** Takes apart what the guest sends, without copying output. */
export class FrameReader {
  readonly #header = Buffer.alloc(HEADER_BYTES)
  #headerBytes = 0
  #type: GuestFrame['type'] = frames.stdout
  /** Of the present payload, still to come. */
  #left = 0
  #exit: Buffer[] = []

  #begin(): void {
    this.#headerBytes = 0
    const type = this.#header.readUInt8(0)
    const length = this.#header.readUInt32BE(1)
    if (type !== frames.stdout && type !== frames.stderr && type !== frames.exit) throw new Error(`frame of type ${type}`)
    if (length > LONGEST_PAYLOAD) throw new Error(`frame of ${length} bytes`)
    if (type === frames.exit && length === 0) throw new Error('an empty exit')
    this.#type = type
    this.#left = length
    this.#exit = []
  }

  *take(chunk: Buffer): Generator<GuestFrame> {
    for (let at = 0; at < chunk.length;) {
      if (this.#left === 0) {
        const taken = chunk.copy(this.#header, this.#headerBytes, at, at + HEADER_BYTES - this.#headerBytes)
        this.#headerBytes += taken
        at += taken
        if (this.#headerBytes === HEADER_BYTES) this.#begin()
        continue
      }
      const data = chunk.subarray(at, at + this.#left)
      this.#left -= data.length
      at += data.length
      if (this.#type !== frames.exit) yield { type: this.#type, data }
      else {
        this.#exit.push(data)
        if (this.#left === 0) yield { type: frames.exit, data: Buffer.concat(this.#exit) }
      }
    }
  }
}

const exitBody = z.object({
  exit_code: z.int(),
  signal: z.string().optional(),
  timed_out: z.boolean().optional(),
  error: z.string().optional(),
})

export function parseExit(payload: Buffer): ExecExit {
  const { exit_code: exitCode, signal, timed_out: timedOut, error } = exitBody.parse(JSON.parse(payload.toString('utf8')))
  return { exitCode, signal, timedOut, error }
}
