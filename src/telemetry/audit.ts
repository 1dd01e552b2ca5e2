// The audit log: who changed what, when, and how it ended. One JSON object a line in `logs/audit.jsonl`, which this user alone reads; never bodies, headers
// or tokens. A line that can't be written goes to the server's own log instead, and nothing else stops: on a full disk people must be able to delete.

import { constants } from 'node:fs'
import { open, rename, rm, type FileHandle } from 'node:fs/promises'
import { messageOf } from '../platform/flow.ts'
import type { AnsweredRequest, RequestListener } from './types.ts'

export interface AuditOptions {
  /** The file; older ones have a number behind their name, 1 for the last. */
  readonly file: string
  /** A file that would get longer is put aside, in bytes. */
  readonly maxBytes: number
  /** How many files there are at most, the one that is written among them. */
  readonly files: number
  /** What became of a line. One that failed is given with the reason. */
  readonly told: (outcome: 'written' | 'failed') => void
  readonly failed: (line: AuditLine, reason: string) => void
}

/** A line of the log. Absent: not known, or there is none. */
export interface AuditLine {
  readonly time: string
  readonly request_id: string
  /** Whom the token speaks for. */
  readonly subject: string
  readonly operation: string
  /** What the path names, as the caller wrote it. */
  readonly target?: string
  /** Id and name of what the answer is about. */
  readonly id?: string
  readonly name?: string
  readonly status: number
  readonly code?: string
  readonly remote: string
  readonly ms: number
}

/** More lines than this are not kept in memory while the disk is slow; they go to the server's log. */
const MOST_WAITING = 10_000

export interface AuditLog extends AsyncDisposable {
  readonly requests: RequestListener
  /** Resolves when every line so far is in its file, or has failed. */
  written(): Promise<void>
}

/** Disposing writes what is left. */
export function openAuditLog(options: AuditOptions): AuditLog {
  const file = new RotatedFile(options)
  let waiting: AuditLine[] = []
  let writing: Promise<void> | undefined

  const fail = (lines: readonly AuditLine[], reason: string): void => {
    for (const line of lines) {
      options.told('failed')
      options.failed(line, reason)
    }
  }
  const writeAll = async (): Promise<void> => {
    while (waiting.length > 0) {
      const lines = waiting
      waiting = []
      try {
        await file.append(lines.map((line) => `${JSON.stringify(line)}\n`).join(''))
        for (const _ of lines) options.told('written')
      } catch (error) {
        fail(lines, messageOf(error))
      }
    }
    writing = undefined
  }
  return {
    requests: {
      answered(request) {
        // Who has no good token changes nothing, and shall not be able to fill the log until what others did is rotated away.
        if (!request.changes || request.subject === undefined) return
        const line = lineOf(request, request.subject)
        if (waiting.length >= MOST_WAITING) return fail([line], `${MOST_WAITING} lines wait for the disk already`)
        waiting.push(line)
        writing ??= writeAll()
      },
    },
    written: async () => writing,
    async [Symbol.asyncDispose]() {
      await writing
      await file[Symbol.asyncDispose]()
    },
  }
}

function lineOf(request: AnsweredRequest, subject: string): AuditLine {
  const { target, answered, code } = request
  return {
    time: new Date().toISOString(),
    request_id: request.id,
    subject,
    operation: request.operation ?? request.method,
    ...(target === undefined ? {} : { target }),
    ...answered,
    status: request.status,
    ...(code === undefined ? {} : { code }),
    remote: request.remoteAddress,
    ms: Math.round(request.ms),
  }
}

/** A file that is put aside when it is full. */
class RotatedFile implements AsyncDisposable {
  readonly #options: Pick<AuditOptions, 'file' | 'maxBytes' | 'files'>
  #open: { readonly handle: FileHandle; bytes: number } | undefined

  constructor(options: Pick<AuditOptions, 'file' | 'maxBytes' | 'files'>) {
    this.#options = options
  }

  async append(text: string): Promise<void> {
    const bytes = Buffer.byteLength(text)
    try {
      this.#open ??= await this.#begin()
      if (this.#open.bytes > 0 && this.#open.bytes + bytes > this.#options.maxBytes) {
        await this.#close()
        await this.#putAside()
        this.#open = await this.#begin()
      }
      await this.#open.handle.appendFile(text)
      this.#open.bytes += bytes
    } catch (error) {
      // The next line tries anew, also if somebody has moved the file.
      await this.#close()
      throw error
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#close()
  }

  /** A line that a full disk cut off is ended first, so that the next one can be read. */
  async #begin(): Promise<{ handle: FileHandle; bytes: number }> {
    const flags = constants.O_RDWR | constants.O_APPEND | constants.O_CREAT | constants.O_NOFOLLOW
    const handle = await open(this.#options.file, flags, 0o600)
    try {
      const { size } = await handle.stat()
      if (size === 0) return { handle, bytes: 0 }
      const { buffer } = await handle.read(Buffer.alloc(1), 0, 1, size - 1)
      if (buffer.toString() === '\n') return { handle, bytes: size }
      await handle.appendFile('\n')
      return { handle, bytes: size + 1 }
    } catch (error) {
      await handle.close()
      throw error
    }
  }

  async #close(): Promise<void> {
    const handle = this.#open?.handle
    this.#open = undefined
    await handle?.close()
  }

  async #putAside(): Promise<void> {
    const { file, files } = this.#options
    const named = (age: number): string => (age === 0 ? file : `${file}.${age}`)
    await rm(named(files - 1), { force: true })
    for (let age = files - 2; age >= 0; age -= 1)
      await rename(named(age), named(age + 1)).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOENT') throw error // there are not as many yet
      })
  }
}
