// hypeman stats: what instances use.

import type { Command } from 'commander'
import type { InstanceStats } from '../../client/client.ts'
import { command } from '../command.ts'
import type { Cli } from '../context.ts'
import { printList, printObject } from '../output/format.ts'
import type { Column } from '../output/table.ts'
import { size } from '../output/text.ts'

const columns: readonly Column<InstanceStats>[] = [
  { title: 'NAME', value: (stats) => stats.instance_name, cut: true },
  { title: 'VCPUS', value: (stats) => String(stats.allocated_vcpus), right: true },
  { title: 'CPU TIME', value: (stats) => `${stats.cpu_seconds.toFixed(1)} s`, right: true },
  { title: 'MEMORY', value: (stats) => size(stats.memory_rss_bytes), right: true },
  { title: 'PRIVATE', value: (stats) => (stats.memory_private_bytes === undefined ? '-' : size(stats.memory_private_bytes)), right: true },
  { title: 'SHARED', value: (stats) => (stats.memory_shared_bytes === undefined ? '-' : size(stats.memory_shared_bytes)), right: true },
  { title: 'ALLOCATED', value: (stats) => size(stats.allocated_memory_bytes), right: true },
  { title: 'RECEIVED', value: (stats) => size(stats.network_rx_bytes), right: true },
  { title: 'SENT', value: (stats) => size(stats.network_tx_bytes), right: true },
]

export function statsCommand(cli: Cli): Command {
  return command('stats', 'Show what instances use: processor time, memory, network', [
    ['hypeman stats', 'of all that run'],
    ['hypeman stats web --format json', 'exact numbers of one'],
  ])
    .argument('[instance...]', 'id, name or unique beginning of an id; by default all that run')
    .action(async (names: string[], _options: object, self: Command) => {
      const session = await cli.session(self)
      const { client, signal } = session
      const chosen =
        names.length > 0 ? names : (await client.instances.list({ state: 'Running' }, { signal })).map((instance) => instance.id)
      const stats = await Promise.all(chosen.map((name) => client.instances.stats(name, { signal })))
      const [only] = stats
      if (names.length === 1 && only !== undefined && session.format !== 'auto' && session.format !== 'table')
        await printObject(session, only)
      else await printList(session, stats, columns)
    })
}
