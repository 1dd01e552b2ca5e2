// hypeman auto-standby …: what is known of an instance's going to standby by itself, and putting it off. The policy is set by run and update.

import type { Command } from 'commander'
import type { AutoStandbyStatus } from '../../client/client.ts'
import { command, group } from '../command.ts'
import type { Cli } from '../context.ts'
import { printObject } from '../output/format.ts'
import { ago } from '../output/text.ts'

const anInstance = ['<instance>', 'id, name or unique beginning of an id'] as const

export function autoStandbyCommand(cli: Cli): Command {
  return group('auto-standby', undefined, 'Instances that go to standby by themselves when nobody uses them', [
    statusCommand(cli),
    holdCommand(cli),
  ])
}

function statusCommand(cli: Cli): Command {
  return command('status', 'Show whether and when an instance goes to standby by itself', [
    ['hypeman auto-standby status web', 'in a line'],
    ['hypeman auto-standby status --format json web', 'with everything that it hangs on'],
  ])
    .argument(...anInstance)
    .action(async (name: string, _options: object, self: Command) => {
      const session = await cli.session(self)
      const status = await session.client.instances.autoStandby.status(name, { signal: session.signal })
      await printObject(session, status, `${name}: ${sentence(status)}`)
    })
}

function holdCommand(cli: Cli): Command {
  return command('hold', 'Keep an instance from going to standby by itself, for as long as its idle timeout from now on', [
    ['hypeman auto-standby hold web && curl http://127.0.0.1:8080', 'it does not go to sleep in between'],
    ['hypeman auto-standby hold web || hypeman restore web', 'wakes it if it sleeps already'],
  ])
    .argument(...anInstance)
    .action(async (name: string, _options: object, self: Command) => {
      const session = await cli.session(self)
      const status = await session.client.instances.autoStandby.hold(name, { signal: session.signal })
      await printObject(session, status, `${name}: ${sentence(status)}`)
    })
}

const reasons: Readonly<Record<AutoStandbyStatus['reason'], string>> = {
  unsupported_platform: 'its hypervisor has no standby',
  policy_missing: 'it has no policy for that',
  policy_disabled: 'its policy is switched off',
  instance_not_running: 'it does not run',
  network_disabled: 'it has no network',
  missing_ip: 'it has no address',
  has_vgpu: 'it has a GPU',
  active_inbound_connections: 'it is used',
  idle_timeout_not_elapsed: 'not yet',
  observer_error: 'connections can not be seen',
  ready_for_standby: 'it is due',
}

function sentence({
  status,
  reason,
  active_inbound_connections: count,
  next_standby_at: next,
  idle_since: since,
}: AutoStandbyStatus): string {
  if (status === 'active') return `used by ${count} ${count === 1 ? 'connection' : 'connections'}`
  if (next && since) return `unused since ${ago(since)}, goes to standby ${ago(next)} (${next})`
  return `does not go to standby by itself: ${reasons[reason]}`
}
