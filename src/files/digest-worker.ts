// The thread that reads files and computes their digests, one at a time, for digests.ts. It gives way to everything else that wants a processor.

import os from 'node:os'
import { parentPort } from 'node:worker_threads'
import { digestFile, type Digested } from './content-digest.ts'
import { digestOutput, type Output } from './output-digest.ts'
import { dropCached } from './page-cache.ts'

export type ToWorker =
  | { readonly kind: 'digest'; readonly id: number; readonly file: string; readonly fromDisk: boolean }
  | { readonly kind: 'digest-output'; readonly id: number; readonly output: Output }
  | { readonly kind: 'cancel'; readonly id: number }

export type FromWorker =
  | { readonly kind: 'progress'; readonly id: number; readonly readBytes: number }
  | { readonly kind: 'done'; readonly id: number; readonly result: Digested }
  | { readonly kind: 'digested-output'; readonly id: number; readonly digest: string }
  | { readonly kind: 'failed'; readonly id: number; readonly message: string; readonly code: string | undefined }

/** Lowest priority of setpriority(2). */
const LOWEST = 19
/** How often progress is told, in milliseconds. */
const TELL_EVERY_MS = 100

if (parentPort === null) throw new Error('this is the code of a worker thread')
const port = parentPort
// On Linux the calling thread alone (setpriority(2), "C library/kernel differences"); elsewhere it would be the whole server.
if (process.platform === 'linux') os.setPriority(0, LOWEST)

let current = { id: 0, cancel: new AbortController() }
port.on('message', (message: ToWorker) => {
  if (message.kind === 'digest') void digest(message)
  else if (message.kind === 'digest-output') void digestOfOutput(message)
  else if (message.id === current.id) current.cancel.abort()
})

async function digest({ id, file, fromDisk }: ToWorker & { readonly kind: 'digest' }): Promise<void> {
  const cancel = new AbortController()
  current = { id, cancel }
  let told = -Infinity // the first piece at once: who shows progress then has something to show
  const onProgress = (readBytes: number): void => {
    if (performance.now() - told < TELL_EVERY_MS) return
    told = performance.now()
    port.postMessage({ kind: 'progress', id, readBytes } satisfies FromWorker)
  }
  try {
    const result = await digestFile(file, { signal: cancel.signal, onProgress, ...(fromDisk ? { prepare: dropCached } : {}) })
    port.postMessage({ kind: 'done', id, result } satisfies FromWorker)
  } catch (error) {
    tellFailure(id, error)
  }
}

async function digestOfOutput({ id, output }: ToWorker & { readonly kind: 'digest-output' }): Promise<void> {
  const cancel = new AbortController()
  current = { id, cancel }
  try {
    const digestOfIt = await digestOutput(output, cancel.signal)
    port.postMessage({ kind: 'digested-output', id, digest: digestOfIt } satisfies FromWorker)
  } catch (error) {
    tellFailure(id, error)
  }
}

function tellFailure(id: number, error: unknown): void {
  const code = error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined
  const message = error instanceof Error ? error.message : String(error)
  port.postMessage({ kind: 'failed', id, message, code } satisfies FromWorker)
}
