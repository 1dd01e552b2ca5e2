// Starts the process that copies the memory of a guest which goes on (live-copy-process.ts), and hears what came of it.

import { spawn } from 'node:child_process'
import { getCompileCacheDir } from 'node:module'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { z } from 'zod'
import { catalogue, HypemanError, type ErrorCode } from '../../api/errors.ts'
import { takeTraps } from '../../platform/userfaultfd.ts'
import type { Mapping } from './private-pages.ts'

const program = path.join(import.meta.dirname, 'live-copy-process.ts')
/** Until the process has started, and until it has done what takes milliseconds, in milliseconds. */
const ANSWER_LIMIT_MS = 30_000

const answer = z.discriminatedUnion('ok', [
  z.object({ ok: z.literal(true), bytes: z.int().optional() }),
  z.object({ ok: z.literal(false), message: z.string(), code: z.string() }),
])
export type LiveCopyAnswer = z.infer<typeof answer>

/** In this order. `take`: have the VMM's userfaultfd, and release what it has protected. `protect`: freeze the memory as it is now. `copy`: write it. */
export type LiveCopyOrder = 'take' | 'protect' | 'copy'

export interface LiveCopy extends Disposable {
  /** Resolves when it is done; `copy` with the bytes that were written. A limit is kept for all but `copy`. */
  order(what: LiveCopyOrder): Promise<number>
}

/** Resolves when the process is ready. Disposing it lets the guest write again, whatever was done; the process then lives until the VMM's stream, `stream`, has ended, also without this server. */
export async function startLiveCopy({ pid, address, bytes }: Mapping, file: string, stream: number): Promise<LiveCopy> {
  // Its start is waited for: it shall not strip the types of its code each time.
  const compiled = getCompileCacheDir()
  const child = spawn(process.execPath, [program, String(pid), String(address), String(bytes), file], {
    cwd: '/',
    detached: true,
    stdio: ['pipe', 'pipe', 'ignore', stream],
    env: compiled === undefined ? {} : { NODE_COMPILE_CACHE: path.dirname(compiled) },
  })
  const { stdin, stdout } = child
  if (stdin === null || stdout === null) throw new Error('the process that copies memory has no input and output')
  stdin.on('error', () => undefined) // that it has ended is told by its output
  const lines = createInterface({ input: stdout })
  const next = lines[Symbol.asyncIterator]()
  const hear = async (): Promise<number> => {
    const { value, done } = await next.next()
    if (done === true) {
      // Nobody is left who lets the guest write.
      using traps = takeTraps(pid)
      traps?.releaseAll()
      throw new HypemanError('host_unavailable', 'the process that copies memory ended too early; see whether the host is out of memory')
    }
    const said = answer.parse(JSON.parse(value))
    if (said.ok) return said.bytes ?? 0
    throw new HypemanError(codeOf(said.code), said.message)
  }
  const inTime = async (): Promise<number> => {
    const { promise: late, reject } = Promise.withResolvers<never>()
    const timer = setTimeout(() => {
      child.kill('SIGKILL') // then its output ends, which is heard
      reject(new HypemanError('host_unavailable', `the process that copies memory did not answer within ${ANSWER_LIMIT_MS / 1000} s`))
    }, ANSWER_LIMIT_MS)
    try {
      return await Promise.race([hear(), late])
    } finally {
      clearTimeout(timer)
    }
  }
  child.unref()
  const copy: LiveCopy = {
    async order(what) {
      stdin.write(`${what}\n`)
      return await (what === 'copy' ? hear() : inTime())
    },
    [Symbol.dispose]() {
      stdin.end()
      lines.close()
    },
  }
  try {
    await inTime()
    return copy
  } catch (error) {
    copy[Symbol.dispose]()
    child.kill('SIGKILL')
    throw error
  }
}

function codeOf(text: string): ErrorCode {
  return text in catalogue ? (text as ErrorCode) : 'host_unavailable'
}
