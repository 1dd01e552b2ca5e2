// hypeman update: changes what can be changed of an instance.

import type { Command } from 'commander'
import { positiveNumber } from '../arguments.ts'
import { autoStandbyPolicyOf, withAutoStandbyOptions, type AutoStandbyOptions } from '../auto-standby.ts'
import { command, group } from '../command.ts'
import type { Cli } from '../context.ts'
import { environmentOf, withEnvironmentOptions, type EnvironmentOptions } from '../environment.ts'
import { printObject } from '../output/format.ts'
import { ago } from '../output/text.ts'
import { UsageError } from '../report.ts'
import {
  healthCheckOf,
  restartPolicyOf,
  withHealthOptions,
  withRestartOptions,
  type HealthOptions,
  type RestartOptions,
} from '../supervision.ts'

interface Options {
  readonly ttl?: string
  readonly expiresAt?: string
}

export function updateCommand(cli: Cli): Command {
  return group('update', undefined, 'Change an instance', [
    expirationCommand(cli),
    sizeCommand(cli),
    restartPolicyCommand(cli),
    healthCheckCommand(cli),
    envCommand(cli),
    autoStandbyCommand(cli),
  ])
}

function expirationCommand(cli: Cli): Command {
  return command('expiration', 'Set, move or clear the time at which an instance is deleted by itself', [
    ['hypeman update expiration web --ttl 2h', 'in two hours from now'],
    ['hypeman update expiration web --ttl 0s', 'never'],
  ])
    .argument('<instance>', 'id, name or unique beginning of an id')
    .option('--ttl <duration>', 'delete it after this time, such as 30m; 0s: never')
    .option('--expires-at <time>', 'delete it at this time (RFC 3339)')
    .action(async (name: string, options: Options, self: Command) => {
      const { ttl, expiresAt } = options
      if ((ttl === undefined) === (expiresAt === undefined)) throw new UsageError('give either --ttl or --expires-at')
      const session = await cli.session(self)
      const instance = await session.client.instances.update(name, { ttl, expires_at: expiresAt }, { signal: session.signal })
      await printObject(
        session,
        instance,
        instance.expires_at === null
          ? `${instance.name} stays`
          : `${instance.name} is deleted ${ago(instance.expires_at)} (${instance.expires_at})`,
      )
    })
}

interface SizeOptions {
  readonly memory?: string
  readonly cpus?: number
  readonly overlaySize?: string
}

function sizeCommand(cli: Cli): Command {
  return command('size', 'Give an instance more memory, processors or disk; one that is stopped may have less memory and processors, too', [
    ['hypeman update size web --overlay-size 20GB', 'a longer disk, also while it runs (qemu, cloud-hypervisor)'],
    ['hypeman stop web && hypeman update size web --memory 4GB --cpus 4 && hypeman start web', 'more of all, on any hypervisor'],
    ['hypeman update size web --memory 2GB', 'while it runs: cloud-hypervisor, and as much as its --hotplug-size says'],
  ])
    .argument('<instance>', 'id, name or unique beginning of an id')
    .option('--memory <size>', 'memory, such as 2GB')
    .option('--cpus <count>', 'virtual processors', positiveNumber)
    .option('--overlay-size <size>', 'its writable disk, such as 20GB; can only grow')
    .action(async (name: string, { memory, cpus, overlaySize }: SizeOptions, self: Command) => {
      if ([memory, cpus, overlaySize].every((one) => one === undefined)) throw new UsageError('give --memory, --cpus or --overlay-size')
      const session = await cli.session(self)
      const change = { size: memory, vcpus: cpus, overlay_size: overlaySize }
      const instance = await session.client.instances.update(name, change, { signal: session.signal })
      const has = `${instance.vcpus} processors, ${instance.size} of memory and a disk of ${instance.overlay_size}`
      await printObject(session, instance, `${instance.name} has ${has}${instance.state === 'Stopped' ? ' from its next start on' : ''}`)
    })
}

function restartPolicyCommand(cli: Cli): Command {
  const self = command('restart-policy', 'Change when an instance is started again by itself', [
    ['hypeman update restart-policy web --policy on_failure --max-attempts 5', 'what is left out gets its default'],
    ['hypeman update restart-policy web --policy never', 'calls off what is planned, too'],
  ]).argument('<instance>', 'id, name or unique beginning of an id')
  return withRestartOptions(self, '').action(async (name: string, options: RestartOptions, own: Command) => {
    const policy = restartPolicyOf(options)
    if (policy?.policy === undefined) throw new UsageError('give --policy')
    const session = await cli.session(own)
    const instance = await session.client.instances.update(name, { restart_policy: policy }, { signal: session.signal })
    await printObject(session, instance, `${instance.name} is started again: ${instance.restart_policy?.policy ?? 'never'}`)
  })
}

function healthCheckCommand(cli: Cli): Command {
  const self = command('health-check', 'Change how the health of an instance is checked', [
    ['hypeman update health-check web --http-port 80 --http-path /health --interval 5s', 'what is left out gets its default'],
    ['hypeman update health-check db --exec pg_isready', 'a command in the guest'],
    ['hypeman update health-check web --type none', 'no checks any more'],
  ]).argument('<instance>', 'id, name or unique beginning of an id')
  return withHealthOptions(self, '').action(async (name: string, options: HealthOptions, own: Command) => {
    const check = healthCheckOf(options)
    if (check === undefined) throw new UsageError('give --http-port, --tcp-port or --exec, or --type none')
    const session = await cli.session(own)
    const instance = await session.client.instances.update(name, { health_check: check }, { signal: session.signal })
    await printObject(session, instance, `${instance.name} is checked by: ${instance.health_check?.type ?? 'nothing'}`)
  })
}

function envCommand(cli: Cli): Command {
  const self = command('env', 'Add environment variables and secret files, or change their values, for the next start of the program', [
    ['hypeman update env web -e MODE=live', 'a program that runs keeps what it has'],
    ['hypeman update env web --env-file app.env && hypeman stop web && hypeman start web', 'has it at once'],
    ['hypeman update env web --secret-env-file passwords.env', 'secret ones'],
    ['hypeman update env web --secret-file tls.key=new.key', 'another content of a secret file'],
  ]).argument('<instance>', 'id, name or unique beginning of an id')
  return withEnvironmentOptions(self)
    .option('--no-inherit-secrets', 'forks that others make go without these secrets')
    .action(async (name: string, options: EnvironmentOptions, self: Command) => {
      const change = await environmentOf(options, cli.terminal)
      const names = [...Object.keys({ ...change.env, ...change.secret_env }), ...Object.keys(change.secret_files ?? {})]
      if (names.length === 0 && change.inherit_secrets === undefined)
        throw new UsageError(
          'name a variable with --env, --env-file, --secret-env or --secret-env-file, or a file with --secret-file; KEY alone needs a value here',
        )
      const session = await cli.session(self)
      const instance = await session.client.instances.update(name, change, { signal: session.signal })
      const said = names.length === 0 ? 'has what forks inherit changed' : `has ${names.join(', ')} from its next start on`
      await printObject(session, instance, `${instance.name} ${said}`)
    })
}

function autoStandbyCommand(cli: Cli): Command {
  const self = command('auto-standby', 'Change when an instance goes to standby by itself; what is left out is as for a new policy', [
    ['hypeman update auto-standby web --idle-timeout 10m', 'when nobody has used it for ten minutes'],
    ['hypeman update auto-standby web --idle-timeout 1h --ignore-destination-port 9100', 'who asks for metrics does not keep it awake'],
    ['hypeman update auto-standby web --off', 'never'],
  ]).argument('<instance>', 'id, name or unique beginning of an id')
  return withAutoStandbyOptions(self, '')
    .option('--off', 'never by itself any more')
    .action(async (name: string, { off, ...options }: AutoStandbyOptions & { readonly off?: boolean }, own: Command) => {
      const policy = autoStandbyPolicyOf(off === true ? { ...options, enabled: false } : options)
      if (policy === undefined) throw new UsageError('give --idle-timeout or --off')
      const session = await cli.session(own)
      const instance = await session.client.instances.update(name, { auto_standby: policy }, { signal: session.signal })
      const { enabled, idle_timeout: timeout } = instance.auto_standby ?? {}
      await printObject(
        session,
        instance,
        `${instance.name} ${enabled === true ? `goes to standby when nobody has used it for ${timeout}` : 'does not go to standby by itself'}`,
      )
    })
}
