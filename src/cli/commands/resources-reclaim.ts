// hypeman resources reclaim-memory: takes memory back from running guests for a while.

import { InvalidArgumentError, Option, type Command } from 'commander'
import { parseSize } from '../../api/units.ts'
import type { ReclaimedMemory } from '../../client/client.ts'
import { command } from '../command.ts'
import type { Cli } from '../context.ts'
import { printList, printObject } from '../output/format.ts'
import type { Column } from '../output/table.ts'
import { size } from '../output/text.ts'

type Action = ReclaimedMemory['actions'][number]

interface Options {
  readonly reclaimBytes: number
  readonly dryRun?: boolean
  readonly holdFor?: string
  readonly reason?: string
}

const columns: readonly Column<Action>[] = [
  { title: 'INSTANCE', value: ({ instance_name: name }) => name, cut: true },
  { title: 'HV', value: ({ hypervisor }) => hypervisor },
  { title: 'MEMORY', value: ({ assigned_memory_bytes: bytes }) => size(bytes), right: true },
  { title: 'FLOOR', value: ({ protected_floor_bytes: bytes }) => size(bytes), right: true },
  { title: 'ASKED FOR', value: (one) => size(one.assigned_memory_bytes - one.planned_target_guest_memory_bytes), right: true },
  { title: 'GIVEN', value: ({ applied_reclaim_bytes: bytes }) => size(bytes), right: true },
  { title: 'STATUS', value: ({ status, error }) => (error === undefined ? status : `${status}: ${error}`), cut: true },
]

function bytesOf(text: string): number {
  const bytes = parseSize(text)
  if (bytes === undefined) throw new InvalidArgumentError('Give a size such as 512MB, or bytes.')
  return bytes
}

export function reclaimMemoryCommand(cli: Cli): Command {
  return command('reclaim-memory', 'Take memory back from running guests for a while, where their hypervisor can', [
    ['hypeman resources reclaim-memory --reclaim-bytes 2GB', 'for five minutes, spread over all guests that can give'],
    ['hypeman resources reclaim-memory --reclaim-bytes 2GB --dry-run', 'only tells who would give how much'],
    ['hypeman resources reclaim-memory --reclaim-bytes 0', 'gives all of it back now'],
  ])
    .addOption(
      new Option('--reclaim-bytes <size>', 'what all of them together shall give, in place of what they were asked for before')
        .argParser(bytesOf)
        .makeOptionMandatory(),
    )
    .option('--dry-run', 'ask nobody, and tell what would be asked')
    .option('--hold-for <duration>', 'until it is given back, such as 10m; at most 1h, by default 5m')
    .option('--reason <text>', "for the server's log and the events of the instances")
    .action(async (options: Options, self: Command) => {
      const session = await cli.session(self)
      const { reclaimBytes, dryRun, holdFor, reason } = options
      const body = { reclaim_bytes: reclaimBytes, dry_run: dryRun, hold_for: holdFor, reason }
      const reclaimed = await session.client.reclaimMemory(body, { signal: session.signal })
      if (session.format !== 'auto' && session.format !== 'table') return await printObject(session, reclaimed)
      const { planned_reclaim_bytes: planned, applied_reclaim_bytes: applied, hold_until: until } = reclaimed
      const what = dryRun === true ? `${size(planned)} would be asked for` : `${size(applied)} of ${size(planned)} given`
      session.note(until === undefined ? what : `${what}, held until ${until}`)
      await printList(session, reclaimed.actions, columns)
    })
}
