// hypeman resources: what the host has, how much of it is promised, and to whom. Taking memory back is in resources-reclaim.ts.

import type { Command } from 'commander'
import type { HostResources } from '../../client/client.ts'
import { command } from '../command.ts'
import type { Cli } from '../context.ts'
import { printLines, printList, printObject } from '../output/format.ts'
import type { Column } from '../output/table.ts'
import { size } from '../output/text.ts'
import { reclaimMemoryCommand } from './resources-reclaim.ts'

type Status = HostResources['cpu']
type Allocation = HostResources['allocations'][number]

const statusColumns: readonly Column<Status>[] = [
  { title: 'RESOURCE', value: ({ type }) => type },
  { title: 'CAPACITY', value: (status) => (status.source === undefined ? 'unknown' : amount(status, status.capacity)), right: true },
  { title: 'TIMES', value: ({ oversub_ratio: ratio }) => String(ratio), right: true },
  { title: 'LIMIT', value: (status) => amount(status, status.effective_limit), right: true },
  { title: 'ALLOCATED', value: (status) => amount(status, status.allocated), right: true },
  { title: 'AVAILABLE', value: (status) => amount(status, status.available), right: true },
]

const allocationColumns: readonly Column<Allocation>[] = [
  { title: 'INSTANCE', value: ({ instance_name: name }) => name ?? '-', cut: true },
  { title: 'VCPUS', value: ({ cpu = 0 }) => String(cpu), right: true },
  { title: 'MEMORY', value: ({ memory_bytes: bytes }) => size(bytes), right: true },
  { title: 'DISK', value: ({ disk_bytes: bytes }) => size(bytes), right: true },
]

function amount({ type }: Status, value: number): string {
  if (type === 'cpu') return String(value)
  return type === 'network' || type === 'disk_io' ? `${size(value)}/s` : size(value)
}

export function resourcesCommand(cli: Cli): Command {
  return command('resources', 'Show what the host has, how much of it is promised, and to which instances', [
    ['hypeman resources', 'as tables; what stands still holds its disk alone'],
    ['hypeman resources reclaim-memory --reclaim-bytes 2GB', 'takes 2 GB back from running guests for five minutes'],
    ['hypeman resources --format json', 'exact numbers, and what images and volumes take'],
  ])
    .alias('resource')
    .addCommand(reclaimMemoryCommand(cli))
    .action(async (_options: object, self: Command) => {
      const session = await cli.session(self)
      const resources = await session.client.resources({ signal: session.signal })
      if (session.format !== 'auto' && session.format !== 'table') return await printObject(session, resources)
      const { cpu, memory, disk, network, disk_io: diskIo, allocations } = resources
      await printList(session, [cpu, memory, disk, network, ...(diskIo === undefined ? [] : [diskIo])], statusColumns)
      if (allocations.length === 0) return
      await printLines(session, [''])
      await printList(session, allocations, allocationColumns)
    })
}
