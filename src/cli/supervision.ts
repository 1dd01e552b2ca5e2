// Options of restart policies and health checks, for `run` (with prefixes) and `update` (without), and the parts of a request that they make.
// What does not go together is the server's to say.

import { InvalidArgumentError, Option, type Command } from 'commander'
import type { InstanceUpdate } from '../client/client.ts'
import { portNumber, wholeNumber, words } from './arguments.ts'

type RestartPolicy = NonNullable<InstanceUpdate['restart_policy']>
type HealthCheck = NonNullable<InstanceUpdate['health_check']>

const policies = ['never', 'always', 'on_failure'] as const

/** `never`, `always`, `on-failure` or `on-failure:ATTEMPTS`; docker's `no` and `unless-stopped` are the first two. */
export function restart(text: string): RestartPolicy {
  const [name = '', attempts, ...more] = text.replaceAll('_', '-').split(':')
  const policy = ({ no: 'never', never: 'never', always: 'always', 'unless-stopped': 'always', 'on-failure': 'on_failure' } as const)[name]
  if (policy === undefined || more.length > 0 || (attempts !== undefined && policy !== 'on_failure'))
    throw new InvalidArgumentError('Give never, always, on-failure or on-failure:ATTEMPTS.')
  return { policy, ...(attempts === undefined ? {} : { max_attempts: wholeNumber(attempts) }) }
}

const port = (text: string): number => portNumber(text, 1)

export interface RestartOptions {
  readonly policy?: (typeof policies)[number]
  readonly backoff?: string
  readonly maxAttempts?: number
  readonly stableAfter?: string
}

/** Adds the options of a restart policy, their names after the prefix: `--restart-backoff`, `--backoff`. */
export function withRestartOptions(self: Command, prefix: '' | 'restart-'): Command {
  return self
    .addOption(new Option(`--${prefix}policy <policy>`, 'when to start it again by itself').choices(policies))
    .option(`--${prefix}backoff <duration>`, "wait before each attempt (the server's default is 5s)")
    .addOption(new Option(`--${prefix}max-attempts <count>`, 'attempts in a row; 0: no limit').argParser(wholeNumber))
    .option(`--${prefix}stable-after <duration>`, "count attempts anew after so long (the server's default is 10m)")
}

/** Undefined if none of the options was given. */
export function restartPolicyOf(options: RestartOptions, short?: RestartPolicy): RestartPolicy | undefined {
  const { policy, backoff, maxAttempts, stableAfter } = options
  const given = { policy, backoff, max_attempts: maxAttempts, stable_after: stableAfter }
  const said = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as RestartPolicy
  return short === undefined && Object.keys(said).length === 0 ? undefined : { ...short, ...said }
}

const types = ['none', 'http', 'tcp', 'exec'] as const
const schemes = ['http', 'https'] as const

export interface HealthOptions {
  readonly type?: (typeof types)[number]
  readonly httpPort?: number
  readonly httpPath?: string
  readonly httpScheme?: (typeof schemes)[number]
  readonly httpExpectedStatus?: number
  readonly tcpPort?: number
  readonly exec?: readonly string[]
  readonly execWorkingDir?: string
  readonly interval?: string
  readonly timeout?: string
  readonly startPeriod?: string
  readonly failureThreshold?: number
  readonly successThreshold?: number
}

/** Adds the options of a health check, their names after the prefix: `--health-http-port`, `--http-port`. */
export function withHealthOptions(self: Command, prefix: '' | 'health-'): Command {
  return self
    .addOption(new Option(`--${prefix}type <type>`, 'kind of check; by default the one that is described').choices(types))
    .addOption(new Option(`--${prefix}http-port <port>`, 'check by a request to this port of the guest').argParser(port))
    .option(`--${prefix}http-path <path>`, 'what to request; by default /')
    .addOption(new Option(`--${prefix}http-scheme <scheme>`, 'by default http').choices(schemes))
    .addOption(new Option(`--${prefix}http-expected-status <status>`, 'by default 200').argParser(wholeNumber))
    .addOption(new Option(`--${prefix}tcp-port <port>`, 'check by a connection to this port of the guest').argParser(port))
    .option(`--${prefix}exec <word>`, 'check by a command in the guest; may be repeated, or a JSON array', words)
    .option(`--${prefix}exec-working-dir <path>`, 'where that command runs')
    .option(`--${prefix}interval <duration>`, "time between checks (the server's default is 10s)")
    .option(`--${prefix}timeout <duration>`, "time for each check (the server's default is 2s)")
    .option(`--${prefix}start-period <duration>`, "for so long failures make nothing unhealthy (the server's default is 30s)")
    .addOption(new Option(`--${prefix}failure-threshold <count>`, 'failures in a row that make it unhealthy').argParser(wholeNumber))
    .addOption(new Option(`--${prefix}success-threshold <count>`, 'successes in a row that make it healthy').argParser(wholeNumber))
}

/** Undefined if none of the options was given. */
export function healthCheckOf(options: HealthOptions): HealthCheck | undefined {
  if (Object.values(options).every((value) => value === undefined)) return undefined
  const { httpPort, httpPath, httpScheme, httpExpectedStatus, tcpPort, exec, execWorkingDir } = options
  const asksHttp = httpPort !== undefined || httpPath !== undefined || httpScheme !== undefined || httpExpectedStatus !== undefined
  return {
    type: options.type,
    // A port that was left out is the server's to name.
    http: asksHttp ? { port: httpPort as number, path: httpPath, scheme: httpScheme, expected_status: httpExpectedStatus } : undefined,
    tcp: tcpPort === undefined ? undefined : { port: tcpPort },
    exec: exec === undefined && execWorkingDir === undefined ? undefined : { command: exec ?? [], working_dir: execWorkingDir },
    interval: options.interval,
    timeout: options.timeout,
    start_period: options.startPeriod,
    failure_threshold: options.failureThreshold,
    success_threshold: options.successThreshold,
  }
}

/** Of all of a command's options those that begin with the prefix, by the rest of their names: `healthHttpPort` as `httpPort`. */
export function unprefixed<T extends object>(options: Readonly<Record<string, unknown>>, prefix: 'health' | 'restart' | 'autoStandby'): T {
  return Object.fromEntries(
    Object.entries(options)
      .filter(([name]) => name.startsWith(prefix) && name !== prefix)
      .map(([name, value]) => [`${name.charAt(prefix.length).toLowerCase()}${name.slice(prefix.length + 1)}`, value]),
  ) as T
}
