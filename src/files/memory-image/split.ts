// Starts the process that splits a migration stream (split-process.ts) and hears what came of it.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { getCompileCacheDir } from 'node:module'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { z } from 'zod'
import { catalogue, HypemanError, type ErrorCode } from '../../api/errors.ts'

const program = path.join(import.meta.dirname, 'split-process.ts')
/** Until the process reads, in milliseconds. */
const START_LIMIT_MS = 30_000

const splitResult = z.discriminatedUnion('ok', [
  z.object({ ok: z.literal(true), bytes: z.int() }),
  z.object({ ok: z.literal(false), message: z.string(), code: z.string() }),
])
export type SplitResult = z.infer<typeof splitResult>

export interface SplitRequest {
  /** Descriptor of the end of a pipe that the stream comes out of. */
  readonly input: number
  readonly block: string
  readonly ramBytes: number
  readonly memoryFile: string
  readonly stateFile: string
}

export interface Splitting {
  /** Bytes of memory written, when the stream is in the two files; they are not synced. Rejects as soon as it is known that they will not be. */
  readonly written: Promise<number>
}

/** Resolves when the process reads. From then on it lives until the stream has ended, also without this server. */
export async function startSplitting(request: SplitRequest): Promise<Splitting> {
  const { input, block, ramBytes, memoryFile, stateFile } = request
  // Its start is waited for: it shall not strip the types of its code each time.
  const compiled = getCompileCacheDir()
  const child = spawn(process.execPath, [program, block, String(ramBytes), memoryFile, stateFile], {
    cwd: '/',
    detached: true,
    stdio: [input, 'pipe', 'ignore'],
    env: compiled === undefined ? {} : { NODE_COMPILE_CACHE: path.dirname(compiled) },
  })
  if (child.stdout === null) throw new Error('the process that splits a memory stream has no output')
  const lines = createInterface({ input: child.stdout })
  const reading = Promise.withResolvers<void>()
  const written = Promise.withResolvers<number>()
  written.promise.catch(() => undefined) // told to whoever waits for it
  lines.on('line', (line) => {
    if (line === 'reading') return reading.resolve()
    try {
      const result = splitResult.parse(JSON.parse(line))
      if (result.ok) written.resolve(result.bytes)
      else written.reject(new HypemanError(codeOf(result.code), result.message))
    } catch (cause) {
      written.reject(new Error('the process that splits a memory stream says something unexpected', { cause }))
    }
  })
  const ended = (): void => {
    const error = new HypemanError(
      'host_unavailable',
      'the process that writes the memory ended too early; see whether the host is out of memory',
    )
    reading.reject(error)
    written.reject(error)
  }
  child.once('error', ended)
  lines.once('close', ended)
  child.unref()
  const limit = AbortSignal.timeout(START_LIMIT_MS)
  const tooLate = once(limit, 'abort').then(() => {
    throw new HypemanError('host_unavailable', `the process that writes the memory did not start within ${START_LIMIT_MS / 1000} s`)
  })
  tooLate.catch(() => undefined)
  try {
    await Promise.race([reading.promise, tooLate])
  } catch (error) {
    child.kill('SIGKILL')
    throw error
  }
  return { written: written.promise }
}

function codeOf(text: string): ErrorCode {
  return text in catalogue ? (text as ErrorCode) : 'host_unavailable'
}
