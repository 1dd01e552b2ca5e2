// Options of standby by itself, for `run` (with prefix) and `update auto-standby` (without), and the part of a request that they make.

import { Option, type Command } from 'commander'
import type { InstanceUpdate } from '../client/client.ts'
import { portNumber, repeated } from './arguments.ts'

type AutoStandbyPolicy = NonNullable<InstanceUpdate['auto_standby']>

export interface AutoStandbyOptions {
  readonly enabled?: boolean
  readonly idleTimeout?: string
  readonly ignoreSourceCidr?: readonly string[]
  readonly ignoreDestinationPort?: readonly number[]
}

const ports = (text: string, before: readonly number[] = []): number[] => [...before, portNumber(text, 1)]

/** Adds the options, their names after the prefix: `--auto-standby-idle-timeout`, `--idle-timeout`. */
export function withAutoStandbyOptions(self: Command, prefix: '' | 'auto-standby-'): Command {
  return self
    .option(`--${prefix}idle-timeout <duration>`, 'put it on standby when nobody has used it for so long, such as 10m')
    .addOption(new Option(`--${prefix}enabled`, 'as with an idle timeout').hideHelp())
    .addOption(
      new Option(`--${prefix}ignore-source-cidr <network>`, 'network whose connections do not count; may be repeated').argParser(repeated),
    )
    .addOption(
      new Option(
        `--${prefix}ignore-destination-port <port>`,
        'port of the guest, connections to which do not count; may be repeated',
      ).argParser(ports),
    )
}

/** Undefined if none of the options was given. */
export function autoStandbyPolicyOf(options: AutoStandbyOptions): AutoStandbyPolicy | undefined {
  const { enabled, idleTimeout, ignoreSourceCidr, ignoreDestinationPort } = options
  if ([enabled, idleTimeout, ignoreSourceCidr, ignoreDestinationPort].every((one) => one === undefined)) return undefined
  return {
    enabled: enabled ?? true,
    ...(idleTimeout === undefined ? {} : { idle_timeout: idleTimeout }),
    ...(ignoreSourceCidr === undefined ? {} : { ignore_source_cidrs: ignoreSourceCidr }),
    ...(ignoreDestinationPort === undefined ? {} : { ignore_destination_ports: ignoreDestinationPort }),
  }
}
