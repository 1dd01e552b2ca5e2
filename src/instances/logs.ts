// Reads an instance's logs line by line: the last lines, then what comes, until the reader leaves. Files are tailed by the kernel's notice, not by polling.

import { watch } from 'node:fs'
import { open, stat, type FileHandle } from 'node:fs/promises'
import path from 'node:path'
import { HypemanError } from '../api/errors.ts'
import { instanceFiles } from '../files/layout.ts'

export type LogSource = 'app' | 'vmm' | 'hypeman'

/** Lines longer than this are handed out in pieces, in bytes. */
const LONGEST_LINE = 65_536
/** How much is read at once, in bytes. */
const CHUNK = 65_536
/** A network filesystem may swallow notices: look again after this time, in milliseconds. */
const LOOK_AGAIN_MS = 2_000

/** The files of a log source: `vmm` is the VMM's own output followed by the guest kernel's console. */
const sources = {
  app: [instanceFiles.appLog],
  vmm: [instanceFiles.vmmLog, instanceFiles.consoleLog],
  hypeman: [instanceFiles.events],
} as const satisfies Record<LogSource, readonly string[]>

export interface LogQuery {
  readonly source: LogSource
  /** Lines of the past; 0 for none. */
  readonly tail: number
  readonly follow: boolean
}

/** Yields lines without their line ends. Ends at the end of the file, or with `follow` when the signal aborts. */
export async function* readLogs(directory: string, query: LogQuery, signal: AbortSignal): AsyncGenerator<string> {
  const files = sources[query.source].map((name) => path.join(directory, name))
  const existing: string[] = []
  for (const file of files) if (await isThere(file)) existing.push(file)
  if (existing.length === 0) throw new HypemanError('log_not_found', `the instance has no ${query.source} log yet; start it first`)
  const last = existing.at(-1) ?? ''
  for (const file of existing.slice(0, -1)) yield* tailOf(file, query.tail)
  yield* query.follow ? followFile(last, query.tail, signal) : tailOf(last, query.tail)
}

async function* tailOf(file: string, lines: number): AsyncGenerator<string> {
  await using handle = await open(file, 'r')
  const { size } = await handle.stat()
  const splitter = new LineSplitter()
  for await (const chunk of chunksOf(handle, await offsetOfLastLines(handle, size, lines), size)) yield* splitter.push(chunk)
  yield* splitter.end()
}

async function* followFile(file: string, lines: number, signal: AbortSignal): AsyncGenerator<string> {
  await using handle = await open(file, 'r')
  let wake = Promise.withResolvers<void>()
  const nudge = (): void => wake.resolve()
  const watcher = watch(file, nudge)
  watcher.on('error', nudge)
  const timer = setInterval(nudge, LOOK_AGAIN_MS)
  signal.addEventListener('abort', nudge, { once: true })
  try {
    const splitter = new LineSplitter()
    let position = await offsetOfLastLines(handle, (await handle.stat()).size, lines)
    while (!signal.aborted) {
      const { size } = await handle.stat()
      if (size < position) position = 0 // the log was cut off by its rotation
      for await (const chunk of chunksOf(handle, position, size)) yield* splitter.push(chunk)
      position = size
      const now = await handle.stat()
      if (now.nlink === 0) return // the instance was deleted
      if (now.size !== size) continue
      await wake.promise
      wake = Promise.withResolvers<void>()
    }
  } finally {
    clearInterval(timer)
    signal.removeEventListener('abort', nudge)
    watcher.close()
  }
}

async function* chunksOf(handle: FileHandle, from: number, to: number): AsyncGenerator<Buffer> {
  for (let position = from; position < to;) {
    const { bytesRead, buffer } = await handle.read(Buffer.allocUnsafe(CHUNK), 0, Math.min(CHUNK, to - position), position)
    if (bytesRead === 0) return
    position += bytesRead
    yield buffer.subarray(0, bytesRead)
  }
}

/** Where the last `lines` lines begin, found from the end so that a long log costs nothing. */
async function offsetOfLastLines(handle: FileHandle, size: number, lines: number): Promise<number> {
  if (lines <= 0) return size
  let newlines = 0
  for (let end = size; end > 0;) {
    const start = Math.max(0, end - CHUNK)
    const { buffer, bytesRead } = await handle.read(Buffer.allocUnsafe(end - start), 0, end - start, start)
    for (let index = bytesRead - 1; index >= 0; index -= 1) {
      if (buffer[index] !== 0x0a || start + index === size - 1) continue
      newlines += 1
      if (newlines === lines) return start + index + 1
    }
    end = start
  }
  return 0
}

/** Cuts a byte stream into lines; UTF-8 sequences that a chunk divides stay whole. */
export class LineSplitter {
  #rest: Buffer[] = []
  #restBytes = 0;

  *push(chunk: Buffer): Generator<string> {
    let start = 0
    for (let end = chunk.indexOf(0x0a); end >= 0; end = chunk.indexOf(0x0a, start)) {
      yield this.#take(chunk.subarray(start, end))
      start = end + 1
    }
    const rest = chunk.subarray(start)
    if (rest.length > 0) {
      this.#rest.push(rest)
      this.#restBytes += rest.length
    }
    if (this.#restBytes > LONGEST_LINE) yield this.#take(Buffer.alloc(0))
  }

  *end(): Generator<string> {
    if (this.#restBytes > 0) yield this.#take(Buffer.alloc(0))
  }

  #take(last: Buffer): string {
    const line = Buffer.concat([...this.#rest, last])
    this.#rest = []
    this.#restBytes = 0
    return line.toString('utf8').replace(/\r$/, '')
  }
}

async function isThere(file: string): Promise<boolean> {
  return stat(file).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return false
      throw error
    },
  )
}
