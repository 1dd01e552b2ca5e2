// Cloud Hypervisor's API, as far as the driver asks it: typed requests, answers checked by a schema, and its errors in words.
// The description that it is held against: tests/vmm-stand-in/descriptions/cloud-hypervisor.yaml.

import { z } from 'zod'
import { HypemanError } from '../../api/errors.ts'
import { messageOf } from '../../platform/flow.ts'
import { AnswerTimeout, askUnix } from '../../platform/unix-http.ts'
import type { VmConfig } from './vm-config.ts'

/** Until an answer must be there, in milliseconds. */
const ANSWER_LIMIT_MS = 60_000
/** A refusal of the VMM's; `httpStatus` is its own. */
export class VmmError extends HypemanError {
  readonly httpStatus: number

  constructor(command: string, status: number, words: string) {
    super('host_unavailable', `Cloud Hypervisor refused ${command} (HTTP ${status}): ${words}`)
    this.name = 'VmmError'
    this.httpStatus = status
  }
}

const pingAnswer = z.object({ version: z.string(), build_version: z.string().optional() })

const infoAnswer = z.object({
  state: z.enum(['Created', 'Running', 'Shutdown', 'Paused', 'BreakPoint']),
  memory_actual_size: z.int().nonnegative().optional(),
  config: z.object({
    cpus: z.object({ boot_vcpus: z.int(), max_vcpus: z.int() }),
    memory: z.object({ size: z.int() }),
    disks: z.array(z.object({ id: z.string().nullish(), path: z.string().nullish() })).nullish(),
  }),
})

export type VmInfo = z.infer<typeof infoAnswer>

/** By device and by the counter's name. Numbers are looked at where they are used: a latency that was never measured is as large as 64 bits can say. */
const countersAnswer = z.record(z.string(), z.record(z.string(), z.unknown()))

export type VmCounters = z.infer<typeof countersAnswer>

export interface RestoreRequest {
  /** Absolute path of a directory with a snapshot. */
  readonly directory: string
  /** Memory comes when the guest asks for it, instead of before it runs. */
  readonly onDemand: boolean
  readonly limitMs: number
}

export interface Vmm {
  /** The version of the process that answers, which has so many milliseconds to do so. */
  version(signal?: AbortSignal, limitMs?: number): Promise<string>
  /** Undefined where no machine was created. */
  info(signal?: AbortSignal): Promise<VmInfo | undefined>
  /** What the process has counted since it began. */
  counters(signal?: AbortSignal): Promise<VmCounters>
  create(config: VmConfig, signal?: AbortSignal): Promise<void>
  command(name: 'boot' | 'pause' | 'resume' | 'power-button', signal?: AbortSignal): Promise<void>
  /** Into an existing, empty directory. Whoever gives up waiting leaves the VMM writing. */
  snapshot(directory: string, limitMs: number): Promise<void>
  restore(request: RestoreRequest, signal?: AbortSignal): Promise<void>
  setBalloon(bytes: number, signal?: AbortSignal): Promise<void>
  /** How much memory, in bytes, or how many processors the machine shall have. */
  resize(wanted: { readonly memory: number } | { readonly vcpus: number }, signal?: AbortSignal): Promise<void>
  resizeDisk(id: string, bytes: number, signal?: AbortSignal): Promise<void>
}

/** `gone` aborts when the process behind the socket has ended, so that nobody waits for its answer. */
export function vmmAt(socket: string, gone: AbortSignal): Vmm {
  const ask = async (method: 'GET' | 'PUT', name: string, body?: object, signal?: AbortSignal, limitMs = ANSWER_LIMIT_MS) => {
    try {
      const either = signal === undefined ? gone : AbortSignal.any([signal, gone])
      return await askUnix({ socket, method, path: `/api/v1/${name}`, body, limitMs, signal: either })
    } catch (error) {
      signal?.throwIfAborted()
      if (error instanceof HypemanError) throw error
      const words =
        error instanceof AnswerTimeout ? `did not answer ${name} within ${limitMs / 1000} s` : `can't be asked ${name}: ${messageOf(error)}`
      throw new HypemanError('host_unavailable', `Cloud Hypervisor ${words}`, { cause: error })
    }
  }
  const put = async (name: string, body?: object, signal?: AbortSignal, limitMs?: number): Promise<void> => {
    const { status, text } = await ask('PUT', name, body, signal, limitMs)
    if (status !== 204 && status !== 200) throw new VmmError(name, status, wordsOf(text))
  }
  const get = async <T>(name: string, schema: z.ZodType<T>, signal?: AbortSignal, limitMs?: number): Promise<T> => {
    const { status, text } = await ask('GET', name, undefined, signal, limitMs)
    if (status !== 200) throw new VmmError(name, status, wordsOf(text))
    return parsed(name, text, schema)
  }
  return {
    async version(signal, limitMs) {
      const { build_version: build, version } = await get('vmm.ping', pingAnswer, signal, limitMs)
      return plainVersion(build ?? version)
    },
    async info(signal) {
      try {
        return await get('vm.info', infoAnswer, signal)
      } catch (error) {
        if (isNotCreated(error)) return undefined
        throw error
      }
    },
    counters: (signal) => get('vm.counters', countersAnswer, signal),
    create: (config, signal) => put('vm.create', config, signal),
    command: (name, signal) => put(`vm.${name}`, undefined, signal),
    snapshot: (directory, limitMs) => put('vm.snapshot', { destination_url: `file://${directory}` }, undefined, limitMs),
    restore: ({ directory, onDemand, limitMs }, signal) => {
      const mode = onDemand ? 'OnDemand' : 'Copy'
      return put('vm.restore', { source_url: `file://${directory}`, memory_restore_mode: mode, resume: false }, signal, limitMs)
    },
    setBalloon: (bytes, signal) => put('vm.resize', { desired_balloon: bytes }, signal),
    resize: (wanted, signal) =>
      put('vm.resize', 'memory' in wanted ? { desired_ram: wanted.memory } : { desired_vcpus: wanted.vcpus }, signal),
    resizeDisk: (id, bytes, signal) => put('vm.resize-disk', { id, desired_size: bytes }, signal),
  }
}

/** As `--version` prints it: `v51.1` and `51.1` are one. */
function plainVersion(said: string): string {
  return said.replace(/^v/, '')
}

/** 404 by the description; versions before 51 answer 500 and say so in words. */
function isNotCreated(error: unknown): boolean {
  return error instanceof VmmError && (error.httpStatus === 404 || /not (?:been )?created/i.test(error.message))
}

function parsed<T>(name: string, text: string, schema: z.ZodType<T>): T {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw strange(name, `it is no JSON: ${JSON.stringify(text.slice(0, 80))}`, cause)
  }
  const checked = schema.safeParse(value)
  if (checked.success) return checked.data
  throw strange(
    name,
    checked.error.issues.map(({ path, message }) => `${path.map(String).join('.') || 'it'}: ${message}`).join(', '),
    checked.error,
  )
}

function strange(name: string, what: string, cause: unknown): HypemanError {
  return new HypemanError(
    'host_unavailable',
    `Cloud Hypervisor's answer to ${name} can't be understood (${what}); have hypervisor.cloud_hypervisor name another version of it`,
    { cause },
  )
}

/** Longest part of an error that is passed on. */
const LONGEST_WORDS = 500

/** Newer versions answer with a list of messages, from the outermost to the cause; older ones with text. */
function wordsOf(text: string): string {
  const list = z.array(z.string()).safeParse(safeJson(text))
  const words = list.success ? list.data.join(': ') : text.trim()
  return words === '' ? 'it did not say why' : words.slice(0, LONGEST_WORDS)
}

function safeJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined // then it is text
  }
}
