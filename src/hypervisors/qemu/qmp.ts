// A client of QEMU's machine protocol (QMP): one connection, one command at a time on the wire, answers checked by schema.

import { connect, type Socket } from 'node:net'
import { z } from 'zod'
import { sendWithDescriptor } from '../../platform/pipe.ts'

const message = z.union([
  z.object({ QMP: z.object({ version: z.object({ qemu: z.object({ major: z.int(), minor: z.int(), micro: z.int() }) }) }) }),
  z.object({ return: z.unknown(), id: z.number().optional() }),
  z.object({ error: z.object({ class: z.string(), desc: z.string() }), id: z.number().optional() }),
  z.object({ event: z.string(), data: z.unknown().optional() }),
])

/** QEMU refused a command; `description` is its own words. */
export class QmpError extends Error {
  readonly errorClass: string
  readonly description: string

  constructor(command: string, errorClass: string, description: string) {
    super(`QEMU refused ${command}: ${description}`)
    this.name = 'QmpError'
    this.errorClass = errorClass
    this.description = description
  }
}

/** Longest message, in characters; the longest that QEMU has reason to send is some tens of thousands. */
const LONGEST_MESSAGE = 4 * 1024 ** 2
/** Unsent bytes that a QEMU which reads nothing may leave with us. */
const MOST_UNSENT_BYTES = 1024 ** 2

interface Pending {
  readonly command: string
  readonly resolve: (value: unknown) => void
  readonly reject: (error: Error) => void
}

export class QmpClient {
  readonly #socket: Socket
  readonly #pending = new Map<number, Pending>()
  /** Pieces of a message that has not ended yet, and their length. */
  #rest: string[] = []
  #restLength = 0
  #version = ''
  #nextId = 1
  #failure: Error | undefined
  /** Who waits for the next event of a name. */
  readonly #awaited = new Map<string, PromiseWithResolvers<number>>()
  readonly #greeted = Promise.withResolvers<void>()

  private constructor(socket: Socket) {
    this.#socket = socket
    this.#greeted.promise.catch(() => undefined) // told to whoever waits in `connect`
    socket.setEncoding('utf8')
    socket.on('data', (text: string) => this.#take(text))
    socket.on('error', (error) => this.#fail(error))
    socket.on('close', () => this.#fail(new Error('QEMU has closed its control socket')))
  }

  /** Connects and negotiates. */
  static async connect(path: string, signal: AbortSignal): Promise<QmpClient> {
    signal.throwIfAborted()
    const socket = connect({ path })
    const client = new QmpClient(socket)
    const onAbort = (): void => client.close(signal.reason instanceof Error ? signal.reason : new Error('aborted'))
    signal.addEventListener('abort', onAbort, { once: true })
    try {
      await client.#greeted.promise
      await client.execute('qmp_capabilities', {}, signal)
      return client
    } catch (error) {
      client.close()
      throw error
    } finally {
      signal.removeEventListener('abort', onAbort)
    }
  }

  /** QEMU's version by its greeting. */
  get version(): string {
    return this.#version
  }

  get closed(): boolean {
    return this.#failure !== undefined
  }

  /**
   * Runs a command; rejects with `QmpError` when QEMU refuses it. An abort gives up waiting: the command may still take effect. `descriptor` goes with the command,
   * for those that take one (`getfd`).
   */
  async execute(
    command: string,
    args: Readonly<Record<string, unknown>> = {},
    signal?: AbortSignal,
    descriptor?: number,
  ): Promise<unknown> {
    signal?.throwIfAborted()
    if (this.#failure !== undefined) throw this.#failure
    if (this.#socket.writableLength > MOST_UNSENT_BYTES) throw new Error('QEMU reads nothing from its control socket')
    const id = this.#nextId++
    const { promise, resolve, reject } = Promise.withResolvers<unknown>()
    this.#pending.set(id, { command, resolve, reject })
    const onAbort = (): void => {
      this.#pending.delete(id)
      reject(signal?.reason instanceof Error ? signal.reason : new Error('aborted'))
    }
    signal?.addEventListener('abort', onAbort, { once: true })
    // QEMU reads it byte by byte, with a round of its main loop for each.
    const text = `${JSON.stringify({ execute: command, ...(Object.keys(args).length > 0 ? { arguments: args } : {}), id })}\n`
    try {
      if (descriptor === undefined) this.#socket.write(text)
      else await this.#sendWith(descriptor, text)
      return await promise
    } finally {
      signal?.removeEventListener('abort', onAbort)
    }
  }

  /** What was written before goes first. */
  async #sendWith(descriptor: number, text: string): Promise<void> {
    await new Promise((resolve) => this.#socket.write('', resolve))
    if (this.#failure !== undefined) throw this.#failure
    sendWithDescriptor(descriptorOf(this.#socket), Buffer.from(text), descriptor)
  }

  /** Resolves with the time (`performance.now()`) at which the next event of that name came; rejects when the connection ends first. */
  nextEvent(name: string): Promise<number> {
    const known = this.#awaited.get(name)
    if (known !== undefined) return known.promise
    if (this.#failure !== undefined) return Promise.reject(this.#failure)
    const waiting = Promise.withResolvers<number>()
    waiting.promise.catch(() => undefined) // told to whoever still waits
    this.#awaited.set(name, waiting)
    return waiting.promise
  }

  close(reason: Error = new Error('the control connection was closed')): void {
    this.#fail(reason)
    this.#socket.destroy()
  }

  #take(text: string): void {
    const [first = '', ...others] = text.split('\n')
    this.#rest.push(first)
    this.#restLength += first.length
    for (const next of others) {
      const line = this.#rest.join('')
      this.#rest = [next]
      this.#restLength = next.length
      if (line.trim() !== '') this.#handle(line)
    }
    if (this.#restLength > LONGEST_MESSAGE)
      this.close(new Error(`QEMU sent more than ${LONGEST_MESSAGE} characters without an end on its control socket`))
  }

  #handle(line: string): void {
    const parsed = message.safeParse(parseJson(line))
    if (!parsed.success) return this.close(new Error(`QEMU said something unexpected on its control socket: ${line.slice(0, 200)}`))
    const said = parsed.data
    if ('QMP' in said) {
      const { major, minor, micro } = said.QMP.version.qemu
      this.#version = `${major}.${minor}.${micro}`
      return this.#greeted.resolve()
    }
    if ('event' in said) {
      this.#awaited.get(said.event)?.resolve(performance.now())
      this.#awaited.delete(said.event)
      return
    }
    const pending = this.#pending.get(said.id ?? -1)
    if (pending === undefined) return // the answer to a command that was given up
    this.#pending.delete(said.id ?? -1)
    if ('error' in said) pending.reject(new QmpError(pending.command, said.error.class, said.error.desc))
    else pending.resolve(said.return)
  }

  #fail(error: Error): void {
    if (this.#failure !== undefined) return
    this.#rest = []
    this.#failure = error
    this.#greeted.reject(error)
    for (const pending of this.#pending.values()) pending.reject(error)
    this.#pending.clear()
    for (const waiting of this.#awaited.values()) waiting.reject(error)
    this.#awaited.clear()
  }
}

/** Node has no public way to it, since it has none to send descriptors. */
function descriptorOf(socket: Socket): number {
  const { _handle: handle } = socket as unknown as { readonly _handle?: { readonly fd?: number } | null }
  if (handle?.fd === undefined || handle.fd < 0) throw new Error("QEMU's control socket has no descriptor")
  return handle.fd
}

function parseJson(line: string): unknown {
  try {
    return JSON.parse(line)
  } catch {
    return undefined // the caller reports the line
  }
}
