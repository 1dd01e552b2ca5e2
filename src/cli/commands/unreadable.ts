// hypeman unreadable: what lies in the server's data directory and can't be read, with the reason and what to do.

import type { Command } from 'commander'
import type { Unreadable } from '../../client/client.ts'
import { command } from '../command.ts'
import type { Cli } from '../context.ts'
import { printList } from '../output/format.ts'
import type { Column } from '../output/table.ts'

const columns: readonly Column<Unreadable>[] = [
  { title: 'KIND', value: ({ kind }) => kind },
  { title: 'ID', value: ({ id }) => id },
  { title: 'REASON', value: ({ reason }) => reason },
]

export function unreadableCommand(cli: Cli): Command {
  return command('unreadable', "List what lies in the data directory and can't be read", [
    ['hypeman unreadable', 'damaged, foreign, or of a newer version; each with what to do'],
    [
      'hypeman rm -f <id>',
      'deletes such an instance; hypeman snapshot delete, hypeman snapshot schedule delete and hypeman volume delete do the same for theirs',
    ],
  ]).action(async (_options: object, self: Command) => {
    const session = await cli.session(self)
    await printList(session, await session.client.unreadable({ signal: session.signal }), columns)
  })
}
