// The server's settings: flags before environment before configuration file before defaults. The only reader of the environment.
// Names in the environment are those in the file, in capitals, with `__` between levels.

import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { HypemanError } from '../api/errors.ts'
import { hypervisorName } from '../api/schemas/common.ts'
import { parseCompression } from '../api/compression-text.ts'
import { compression } from '../api/schemas/compression.ts'
import { parseBandwidth, parseDuration, parseRate, parseSize } from '../api/units.ts'
import { parseSubnet } from './ipv4.ts'

/** What the command line of `hypeman serve` gives; absent: not given. */
export interface ServeFlags {
  readonly config?: string | undefined
  readonly port?: number | undefined
  readonly host?: string | undefined
  readonly dataDir?: string | undefined
  readonly logLevel?: string | undefined
}

const size = z.string().transform((text, context) => parseSize(text) ?? fail(context, 'is not a size such as 16GB'))
const duration = z.string().transform((text, context) => parseDuration(text) ?? fail(context, 'is not a duration such as 30s'))
/** Zero would mean no limit to Node, or no time at all. */
const patience = duration.pipe(z.number().min(100, 'is shorter than 100ms').max(86_400_000, 'is longer than a day'))
const bandwidth = z
  .string()
  .transform((text, context) => parseBandwidth(text) ?? fail(context, 'is not a bandwidth such as 1Gbps or 125MB/s'))
const compressionText = z.string().transform((text, context) => {
  const parsed = parseCompression(text)
  if (parsed === undefined) return fail(context, 'is not none, zstd or lz4, with a level if you like: zstd:19')
  const judged = compression.safeParse(parsed)
  return judged.data ?? fail(context, judged.error?.issues.map(({ message }) => message).join('; ') ?? 'is wrong')
})
const rate = z.string().transform((text, context) => parseRate(text) ?? fail(context, 'is not a rate such as 500MB/s'))
/** How often something may be promised. */
const ratio = z
  .union([
    z.number(),
    z
      .string()
      .regex(/^\d+(\.\d+)?$/, 'is not a number such as 4 or 0.8')
      .transform(Number),
  ])
  .pipe(z.number().positive().max(1e6))
const wholeNumber = z.union([z.number(), z.string()]).transform((value, context) => {
  const number = typeof value === 'number' ? value : /^\d+$/.test(value) ? Number(value) : Number.NaN
  return Number.isSafeInteger(number) && number >= 0 ? number : fail(context, 'is not a whole number')
})

function fail(context: z.RefinementCtx<unknown>, message: string): never {
  context.addIssue(message)
  return z.NEVER
}

const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const

const settings = z.strictObject({
  /** Port to listen on; 0: a free one. */
  port: wholeNumber.pipe(z.int().max(65_535)).default(4973),
  /** Address to listen on. By default all addresses, or loopback alone while no secret is configured. */
  host: z.string().min(1).optional(),
  data_dir: z.string().min(1).default('/var/lib/hypeman'),
  /** Key of the API's tokens. Without it the server makes one and keeps it in the data directory. */
  jwt_secret: z.string().min(1).optional(),
  /** The key before: its tokens are good as well, until it is taken away. */
  jwt_secret_previous: z.string().min(1).optional(),
  /** Of secret environment variables on disk. */
  secrets: z
    .strictObject({
      /** Without it the server makes one and keeps it in the data directory. */
      key: z.string().min(16, 'is shorter than 16 characters').optional(),
      /** The key before: needed at one start, which seals with the present one what it has sealed. */
      previous_key: z.string().min(16, 'is shorter than 16 characters').optional(),
    })
    .prefault({}),
  auth: z
    .strictObject({
      /** Tokens are good for so much longer (and earlier), since other hosts' clocks may differ. */
      leeway: duration.prefault('30s'),
    })
    .prefault({}),
  rate_limit: z
    .strictObject({
      /** Of one subject; 0: as many as they like. */
      requests_per_minute: wholeNumber.default(0),
    })
    .prefault({}),
  metrics: z
    .strictObject({
      /** Whoever reaches the server may read /metrics. */
      public: z.union([z.boolean(), z.stringbool()]).default(false),
    })
    .prefault({}),
  audit: z
    .strictObject({
      enabled: z.union([z.boolean(), z.stringbool()]).default(true),
      /** A longer file is put aside. */
      max_size: size.prefault('10MB'),
      /** How many files there are, the one that is written among them. */
      files: wholeNumber.pipe(z.int().min(1).max(1_000)).default(5),
    })
    .prefault({}),
  log_level: z.enum(logLevels).default('info'),
  /** Directory with the guest's kernel, initramfs and base image. */
  assets_dir: z
    .string()
    .min(1)
    .default(path.join(import.meta.dirname, '..', '..', '.assets')),
  hypervisor: z
    .strictObject({
      default: hypervisorName.default('qemu'),
      /** The helper for machines of macOS, as vz/build.sh makes it. */
      vz: z
        .string()
        .min(1)
        .default(path.join(import.meta.dirname, '..', '..', 'vz', 'build', 'hypeman-vz')),
      /** Firecracker's program: absolute, or a name that is found on PATH. */
      firecracker: z.string().min(1).default('firecracker'),
      /** Whether Firecracker's processes are started by its jailer. */
      jailer: z.enum(['off', 'auto', 'on']).default('off'),
      /** Cloud Hypervisor's program: absolute, or a name that is found on PATH. */
      cloud_hypervisor: z.string().min(1).default('cloud-hypervisor'),
      /** False: hypervisors that run on KVM alone are started without it, too. For stand-ins of theirs. */
      needs_kvm: z.union([z.boolean(), z.stringbool()]).default(true),
    })
    .prefault({}),
  limits: z
    .strictObject({
      max_vcpus_per_instance: wholeNumber.default(16),
      max_memory_per_instance: size.prefault('64GB'),
      max_overlay_size: size.prefault('100GB'),
      /** Images that are sent to other registries at the same time; the others wait. */
      max_concurrent_pushes: wholeNumber.pipe(z.int().min(1).max(64)).default(2),
      /** Open at once, streams among them. */
      connections: wholeNumber.pipe(z.int().min(1)).default(4_096),
      /** Programs, copies, followed logs and events of one subject; 0: as many as they like. */
      streams_per_subject: wholeNumber.default(512),
    })
    .prefault({}),
  /** How often what the host has is promised to instances and volumes. */
  oversubscription: z
    .strictObject({
      /** Virtual processors that wait cost nothing. */
      cpu: ratio.default(128),
      /** Guests share what they have in common with the snapshot that they were forked from. */
      memory: ratio.default(8),
      /** Disks take space as they are written. */
      disk: ratio.default(100),
      network: ratio.default(2),
      disk_io: ratio.default(2),
    })
    .prefault({}),
  /** What the host has, where that is not to be found by looking. */
  capacity: z
    .strictObject({
      /** Of the data directory, instead of all of its file system. */
      disk: size.optional(),
      network: bandwidth.optional(),
      disk_io: rate.optional(),
    })
    .prefault({}),
  /** Of guests that get one (docs/networks.md). */
  network: z
    .strictObject({
      /** `user`: behind their VMM. `tap`: by a device of the host. `auto`: what their hypervisor usually has, and a device where a limit of bandwidth, or the proxy as the only way out, needs one. */
      mode: z.enum(['auto', 'user', 'tap']).default('auto'),
      /** Addresses of guests that have a device of the host; the first is the host's own. */
      subnet_cidr: z
        .string()
        .transform((text, context) => parseSubnet(text) ?? fail(context, 'is not a network such as 10.100.0.0/16, from /8 to /28'))
        .prefault('10.100.0.0/16'),
      /** What such guests ask for names, instead of the host's own resolvers. */
      dns_server: z.ipv4().optional(),
      /** Of the proxy for guests that have no other way out, on the address that the host has for them. */
      egress_port: wholeNumber.pipe(z.int().min(1).max(65_535)).default(4974),
    })
    .prefault({}),
  timeouts: z
    .strictObject({
      /** Until the agent of a cold-booted guest must have answered. */
      boot: duration.prefault('2m'),
      /** The same after a restore or fork. */
      restore: duration.prefault('1m'),
      /** Given to a program to end by itself. */
      stop: duration.prefault('5s'),
      /** An operation waits at most this long for another on the same instance. */
      lock: duration.prefault('1m'),
      /** A connection must have said what it asks for by then. */
      headers: patience.prefault('30s'),
      /** JSON must be here by then, other bodies may not pause for longer, and answers must be taken as fast. */
      body: patience.prefault('1m'),
      /** A connection that asks for nothing more is kept so long. */
      keep_alive: patience.prefault('72s'),
    })
    .prefault({}),
  snapshots: z
    .strictObject({
      /** Machines that booted are saved while they run, where the kernel lets them. */
      live: z.union([z.boolean(), z.stringbool()]).default(true),
      /** Schedules may not ask for snapshots more often. */
      shortest_interval: duration.pipe(z.number().min(1_000, 'is shorter than 1s')).prefault('1m'),
      /** Snapshots and instances in standby whose memory is compressed at the same time. */
      compressions_at_once: wholeNumber.pipe(z.int().min(1).max(16)).default(1),
      /** How memory is compressed of which neither a request nor the instance's policy says anything. */
      compression: compressionText.prefault('none'),
      /** Memory that was decompressed for a restore or fork stays so for this long after its last use. */
      keep_decompressed: duration.prefault('10m'),
      /** Forks that are loaded before anybody asks for them, of all snapshots together; 0: none. */
      spares: wholeNumber.pipe(z.int().min(0).max(256)).default(32),
      /** Those of a snapshot that was not forked for so long are ended. */
      keep_spares: duration.prefault('10m'),
    })
    .prefault({}),
  /** New instances begin with a guest that has booted already, where one was kept of the same image, kernel, machine and sizes. */
  templates: z.union([z.boolean(), z.stringbool()]).default(true),
  /** Faults to inject, for tests (faults.ts). */
  hypeman_faults: z.string().optional(),
})

export type ServerConfig = Readonly<z.output<typeof settings>>

/** Resolves the settings; a wrong one is `invalid_request` and names its source. */
export async function loadConfig(flags: ServeFlags, environment: NodeJS.ProcessEnv = process.env): Promise<ServerConfig> {
  const file = flags.config ?? environment['CONFIG_PATH']
  const fromFile = await readConfigFile(file ?? '/etc/hypeman/config.yaml', file !== undefined)
  const merged = { ...fromFile }
  for (const [names, name] of variables) {
    const value = environment[name]
    if (value !== undefined && value !== '') put(merged, names, value)
  }
  const given = { port: flags.port, host: flags.host, data_dir: flags.dataDir, log_level: flags.logLevel }
  for (const [name, value] of Object.entries(given)) if (value !== undefined) put(merged, [name], value)
  const parsed = settings.safeParse(merged)
  if (parsed.success) return checked({ ...parsed.data, data_dir: path.resolve(parsed.data.data_dir) })
  const problems = parsed.error.issues.map((issue) => `${issue.path.join('.') || 'the configuration'}: ${issue.message}`)
  throw new HypemanError('invalid_request', `the configuration is wrong: ${problems.join('; ')}`)
}

const loopback = /^(localhost|::1|127\.\d+\.\d+\.\d+)$/

/** The address to listen on: everywhere only with a secret that somebody chose. */
export function listenAddress(config: ServerConfig): string {
  // As a name it would be two addresses, and two servers.
  if (config.host === 'localhost') return '127.0.0.1'
  return config.host ?? (config.jwt_secret === undefined ? '127.0.0.1' : '0.0.0.0')
}

function checked(config: ServerConfig): ServerConfig {
  if (config.jwt_secret === undefined && !loopback.test(listenAddress(config)))
    throw new HypemanError(
      'invalid_request',
      `host: without JWT_SECRET the server listens on loopback only, not on ${listenAddress(config)}; set JWT_SECRET`,
    )
  return config
}

/** Every setting's path in the file with its name in the environment. */
export const variables: readonly (readonly [names: readonly string[], variable: string])[] = Object.entries(settings.shape).flatMap(
  ([name, schema]) => {
    const inner = schema instanceof z.ZodPrefault ? schema.unwrap() : undefined
    const paths = inner instanceof z.ZodObject ? Object.keys(inner.shape).map((key) => [name, key]) : [[name]]
    return paths.map((names) => [names, names.join('__').toUpperCase()] as const)
  },
)

/** What the environment says of traces, in OpenTelemetry's own variables; where they go is read by its exporter itself. */
export interface TraceSettings {
  readonly exporter: 'otlp' | 'console'
  readonly sampler: (typeof samplers)[number]
  readonly ratio: number
  /** How long spans are gathered before they are sent, in milliseconds. */
  readonly delayMs: number
}

const samplers = [
  ...(['always_on', 'always_off', 'traceidratio'] as const),
  ...(['parentbased_always_on', 'parentbased_always_off', 'parentbased_traceidratio'] as const),
] as const

const traceVariables = z.object({
  OTEL_SDK_DISABLED: z.string().optional(),
  OTEL_TRACES_EXPORTER: z.enum(['otlp', 'console', 'none']).optional(),
  OTEL_EXPORTER_OTLP_ENDPOINT: z.string().optional(),
  OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: z.string().optional(),
  OTEL_EXPORTER_OTLP_PROTOCOL: z.enum(['http/json'], 'only http/json is spoken').optional(),
  OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: z.enum(['http/json'], 'only http/json is spoken').optional(),
  OTEL_TRACES_SAMPLER: z.enum(samplers).default('parentbased_always_on'),
  OTEL_TRACES_SAMPLER_ARG: z.coerce.number().min(0).max(1).default(1),
  OTEL_BSP_SCHEDULE_DELAY: wholeNumber.default(5_000),
})

/** Undefined: nobody asks for traces. A variable that can't be followed is `invalid_request`. */
export function traceSettings(environment: NodeJS.ProcessEnv = process.env): TraceSettings | undefined {
  const given = Object.fromEntries(Object.entries(environment).filter(([, value]) => value !== ''))
  const asked = given['OTEL_TRACES_EXPORTER'] ?? given['OTEL_EXPORTER_OTLP_ENDPOINT'] ?? given['OTEL_EXPORTER_OTLP_TRACES_ENDPOINT']
  if (asked === undefined || asked === 'none' || given['OTEL_SDK_DISABLED']?.toLowerCase() === 'true') return undefined
  const parsed = traceVariables.safeParse(given)
  if (!parsed.success) {
    const problems = parsed.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`)
    throw new HypemanError('invalid_request', `traces can't be sent as the environment asks: ${problems.join('; ')}`)
  }
  const { OTEL_TRACES_EXPORTER: exporter = 'otlp', OTEL_TRACES_SAMPLER: sampler, OTEL_TRACES_SAMPLER_ARG: ratio } = parsed.data
  return { exporter: exporter === 'console' ? 'console' : 'otlp', sampler, ratio, delayMs: parsed.data.OTEL_BSP_SCHEDULE_DELAY }
}

function put(into: Record<string, unknown>, [name = '', ...rest]: readonly string[], value: unknown): void {
  if (rest.length === 0) into[name] = value
  else {
    const below = into[name]
    const copy: Record<string, unknown> = typeof below === 'object' ? { ...below } : {}
    put(copy, rest, value)
    into[name] = copy
  }
}

async function readConfigFile(file: string, mustExist: boolean): Promise<Record<string, unknown>> {
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT' && !mustExist) return undefined
    throw new HypemanError('invalid_request', `the configuration file ${file} can't be read`, { cause: error })
  })
  if (text === undefined) return {}
  const { parse } = await import('yaml')
  const content = z.record(z.string(), z.unknown()).nullable().safeParse(parse(text))
  if (!content.success)
    throw new HypemanError('invalid_request', `the configuration file ${file} holds no settings; write lines such as port: 4973`)
  return content.data ?? {}
}

/** Where programs are looked for that are named without a directory, in order. */
export function programDirectories(environment: NodeJS.ProcessEnv = process.env): readonly string[] {
  return (environment['PATH'] ?? '').split(path.delimiter).filter((directory) => directory !== '')
}
