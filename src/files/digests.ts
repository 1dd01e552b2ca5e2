// Digests of large files, computed beside the server's own work: one file at a time, in a thread of the lowest priority that is there only while there is work.
// What was computed is remembered by the file's identity, so that a file which many things share by hard links is read once.

import { Worker } from 'node:worker_threads'
import type { Digested } from './content-digest.ts'
import type { FromWorker, ToWorker } from './digest-worker.ts'
import { identityKey, type FileIdentity } from './identity.ts'
import type { Output } from './output-digest.ts'

/** How long the thread waits for more work before it ends, in milliseconds. */
const IDLE_MS = 5_000

export interface ReadOptions {
  /** Before whatever is not. */
  readonly urgent: boolean
  /** Past what the kernel holds in memory. */
  readonly fromDisk?: boolean
  readonly signal?: AbortSignal | undefined
  readonly onProgress?: ((readBytes: number) => void) | undefined
}

/** What one job is: of a file everything that was found out, of an output the digest alone. */
type Work =
  | { readonly kind: 'file'; readonly file: string; resolve(result: Digested): void }
  | { readonly kind: 'output'; readonly output: Output; resolve(digest: string): void }

type Job = ReadOptions & Work & { readonly id: number; reject(error: unknown): void }

export class Digests implements AsyncDisposable {
  readonly #known = new Map<string, string>()
  readonly #damaged = new Set<string>()
  readonly #inFlight = new Map<string, Promise<Digested>>()
  readonly #queue: Job[] = []
  #current: Job | undefined
  #worker: Worker | undefined
  #idle: NodeJS.Timeout | undefined
  #closed = false
  #nextId = 1

  /** The digest of this very version of a file, if it was computed or told. */
  known(identity: FileIdentity): string | undefined {
    return this.#known.get(identityKey(identity))
  }

  remember(identity: FileIdentity, digest: string): void {
    this.#known.set(identityKey(identity), digest)
  }

  /** What a reading of this version found; whoever shares the file then knows, too. */
  setDamaged(identity: FileIdentity, damaged: boolean): void {
    if (damaged) this.#damaged.add(identityKey(identity))
    else this.#damaged.delete(identityKey(identity))
  }

  isDamaged(identity: FileIdentity): boolean {
    return this.#damaged.has(identityKey(identity))
  }

  /** For files that are gone. */
  forget(identity: FileIdentity): void {
    this.#known.delete(identityKey(identity))
    this.#damaged.delete(identityKey(identity))
  }

  /** The digest of a file of this identity, before all other work; of many who ask at once, one reads. */
  async prove(file: string, identity: FileIdentity): Promise<string> {
    const known = this.known(identity)
    if (known !== undefined) return known
    const key = identityKey(identity)
    let reading = this.#inFlight.get(key)
    if (reading === undefined) {
      reading = this.read(file, { urgent: true }).finally(() => this.#inFlight.delete(key))
      this.#inFlight.set(key, reading)
    }
    const { digest, identity: found } = await reading
    this.remember(found, digest)
    return digest
  }

  /** Reads a file and computes its digest. Rejects with the signal's reason when it aborts. Remembers nothing. */
  async read(file: string, options: ReadOptions): Promise<Digested> {
    const { promise, resolve, reject } = Promise.withResolvers<Digested>()
    await this.#run({ ...options, kind: 'file', file, id: this.#nextId++, resolve, reject }, promise)
    return await promise
  }

  /** The digest of what a command writes, in turn with the files and with the same manners. */
  async readOutput(output: Output, signal: AbortSignal): Promise<string> {
    const { promise, resolve, reject } = Promise.withResolvers<string>()
    await this.#run({ urgent: false, signal, kind: 'output', output, id: this.#nextId++, resolve, reject }, promise)
    return await promise
  }

  async #run(job: Job, done: Promise<unknown>): Promise<void> {
    job.signal?.throwIfAborted()
    if (this.#closed) throw new Error('the server is stopping')
    const firstLater = this.#queue.findIndex((one) => job.urgent && !one.urgent)
    this.#queue.splice(firstLater < 0 ? this.#queue.length : firstLater, 0, job)
    const cancel = (): void => this.#cancel(job)
    job.signal?.addEventListener('abort', cancel, { once: true })
    this.#next()
    try {
      await done
    } finally {
      job.signal?.removeEventListener('abort', cancel)
    }
  }

  /** Ends the thread; what waits for a digest is told that the server stops. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true
    clearTimeout(this.#idle)
    const error = new Error('the server is stopping')
    for (const job of this.#queue.splice(0)) job.reject(error)
    this.#current?.reject(error)
    this.#current = undefined
    await this.#endWorker()
  }

  #next(): void {
    if (this.#current !== undefined) return
    const job = this.#queue.shift()
    clearTimeout(this.#idle)
    if (job === undefined) {
      this.#worker?.unref()
      this.#idle = setTimeout(() => void this.#endWorker(), IDLE_MS).unref()
      return
    }
    this.#current = job
    this.#worker ??= this.#startWorker()
    this.#worker.ref()
    const { id } = job
    const order: ToWorker =
      job.kind === 'output'
        ? { kind: 'digest-output', id, output: job.output }
        : { kind: 'digest', id, file: job.file, fromDisk: job.fromDisk === true }
    this.#worker.postMessage(order)
  }

  #startWorker(): Worker {
    const worker = new Worker(new URL('digest-worker.ts', import.meta.url))
    worker.on('message', (message: FromWorker) => this.#hear(message))
    worker.on('error', (error: unknown) => this.#lost(worker, error))
    worker.on('exit', () => this.#lost(worker, new Error('the thread that computes digests has ended')))
    return worker
  }

  async #endWorker(): Promise<void> {
    const worker = this.#worker
    this.#worker = undefined
    await worker?.terminate()
  }

  #hear(message: FromWorker): void {
    const job = this.#current
    if (job?.id !== message.id) return
    if (message.kind === 'progress') return job.onProgress?.(message.readBytes)
    this.#current = undefined
    // An order to cancel that comes when the last of the file was read cancels nothing; whoever gave it is told the same.
    if (job.signal?.aborted === true) job.reject(job.signal.reason)
    else if (message.kind === 'failed') job.reject(failureOf(message))
    else if (message.kind === 'done' && job.kind === 'file') job.resolve(message.result)
    else if (message.kind === 'digested-output' && job.kind === 'output') job.resolve(message.digest)
    this.#next()
  }

  #lost(worker: Worker, error: unknown): void {
    if (this.#worker !== worker) return
    this.#worker = undefined
    const job = this.#current
    this.#current = undefined
    job?.reject(error)
    this.#next()
  }

  #cancel(job: Job): void {
    const waiting = this.#queue.indexOf(job)
    if (waiting >= 0) {
      this.#queue.splice(waiting, 1)
      job.reject(job.signal?.reason)
    } else if (this.#current === job) {
      this.#worker?.postMessage({ kind: 'cancel', id: job.id } satisfies ToWorker)
    }
  }
}

function failureOf({ message, code }: Extract<FromWorker, { kind: 'failed' }>): Error {
  return Object.assign(new Error(message), code === undefined ? {} : { code })
}
