// hypeman health and capabilities: what the server is and can do.

import type { Command } from 'commander'
import type { Capabilities } from '../../client/client.ts'
import { command } from '../command.ts'
import type { Cli } from '../context.ts'
import { printList, printObject } from '../output/format.ts'
import type { Column } from '../output/table.ts'

export function healthCommand(cli: Cli): Command {
  return command('health', 'Ask whether the server answers', [['hypeman health', 'exits 0 if it does']]).action(
    async (_options: object, self: Command) => {
      const session = await cli.session(self)
      const health = await session.client.health({ signal: session.signal })
      await printObject(session, health, health.status)
    },
  )
}

const runtimeColumns: readonly Column<Capabilities['runtimes'][number]>[] = [
  { title: 'HYPERVISOR', value: (runtime) => runtime.name },
  { title: 'AVAILABLE', value: (runtime) => (runtime.available ? 'yes' : 'no') },
  { title: 'VERSION', value: (runtime) => runtime.version ?? '-' },
  { title: 'FEATURES', value: (runtime) => runtime.features.join(' '), cut: true },
  { title: 'WHY NOT', value: (runtime) => runtime.reason ?? '-', cut: true },
]

export function capabilitiesCommand(cli: Cli): Command {
  return command('capabilities', 'Show what the server and its hypervisors can do', [
    ['hypeman capabilities', 'as JSON'],
    ['hypeman capabilities --format table', 'hypervisors as a table'],
  ])
    .alias('capability')
    .action(async (_options: object, self: Command) => {
      const session = await cli.session(self)
      const capabilities = await session.client.capabilities({ signal: session.signal })
      if (session.format === 'table') await printList(session, capabilities.runtimes, runtimeColumns)
      else await printObject(session, capabilities)
    })
}
