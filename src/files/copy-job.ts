// Hands the copy of a large file to the thread that copies (copy-thread.ts) and waits for its end. One thread for all copies: started by the first, ended when
// there was none for a while.

import { MessageChannel, Worker, type MessagePort } from 'node:worker_threads'
import { HypemanError, type ErrorCode } from '../api/errors.ts'
import type { OpenFile } from './copy-extents.ts'

export interface CopyJob {
  readonly from: OpenFile
  readonly to: OpenFile
  /** Not 0 ends the copy after the turn under way; shared. */
  readonly stop: Int32Array
  /** Takes the bytes of each turn, and at last a `CopyEnd`. */
  readonly port: MessagePort
}

export type CopyEnd =
  | { readonly kind: 'done' | 'stopped' }
  | { readonly kind: 'refused'; readonly message: string; readonly code: ErrorCode }
  | { readonly kind: 'failed'; readonly message: string; readonly code: string | undefined }

export interface Watch {
  readonly signal: AbortSignal | undefined
  readonly copied: (bytes: number) => void
}

/** Until the thread ends when nothing is copied, in milliseconds. Its start costs as much as copying some 100 MB, its being there some 15 MB. */
const IDLE_MS = 60_000

/** Copies between open files; the caller may close them when this has ended, however it did. An abort throws the signal's reason. */
export async function copyInThread(from: OpenFile, to: OpenFile, { signal, copied }: Watch): Promise<void> {
  signal?.throwIfAborted()
  using thread = borrowThread()
  const stop = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT))
  const { port1, port2 } = new MessageChannel()
  const { promise, resolve, reject } = Promise.withResolvers<CopyEnd>()
  let reason: unknown
  const stopFor = (why: unknown): void => {
    reason = why
    Atomics.store(stop, 0, 1)
  }
  const onAbort = (): void => stopFor(signal?.reason)
  signal?.addEventListener('abort', onAbort)
  port1.on('message', (message: number | CopyEnd) => {
    if (typeof message !== 'number') return reason === undefined ? resolve(message) : reject(reason)
    try {
      copied(message)
    } catch (error) {
      stopFor(error)
    }
  })
  const job: CopyJob = { from: { path: from.path, fd: from.fd }, to: { path: to.path, fd: to.fd }, stop, port: port2 }
  thread.worker.postMessage(job, [port2])
  try {
    const end = await Promise.race([promise, thread.ended])
    if (end.kind === 'refused') throw new HypemanError(end.code, end.message)
    if (end.kind === 'failed') throw Object.assign(new Error(end.message), { code: end.code })
  } finally {
    signal?.removeEventListener('abort', onAbort)
    port1.close()
  }
}

interface Thread {
  readonly worker: Worker
  /** Never resolves; rejects when the thread is gone. */
  readonly ended: Promise<never>
  jobs: number
  idle: NodeJS.Timeout | undefined
}

let thread: Thread | undefined

function borrowThread(): Thread & Disposable {
  const mine = (thread ??= startThread())
  mine.jobs += 1
  clearTimeout(mine.idle)
  return Object.assign(mine, {
    [Symbol.dispose]() {
      mine.jobs -= 1
      if (mine.jobs > 0) return
      mine.idle = setTimeout(() => {
        if (thread === mine) thread = undefined
        void mine.worker.terminate()
      }, IDLE_MS).unref()
    },
  })
}

function startThread(): Thread {
  const worker = new Worker(new URL('./copy-thread.ts', import.meta.url), { execArgv: [], resourceLimits: { maxYoungGenerationSizeMb: 4 } })
  worker.unref()
  const { promise: ended, reject } = Promise.withResolvers<never>()
  const started: Thread = { worker, ended, jobs: 0, idle: undefined }
  const gone = (why: unknown): void => {
    if (thread === started) thread = undefined
    reject(new Error('the thread that copies files has ended', { cause: why }))
  }
  ended.catch(() => undefined) // nobody may be copying
  worker.on('error', gone)
  worker.on('exit', (code) => gone(`exit code ${code}`))
  return started
}
