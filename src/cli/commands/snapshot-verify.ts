// hypeman snapshot verify: reads every byte of snapshots and says which files are not what they were.

import type { Command } from 'commander'
import type { SnapshotVerification, VerifyEvent } from '../../client/client.ts'
import { command } from '../command.ts'
import type { Cli, Session } from '../context.ts'
import { each } from '../each.ts'
import { printList } from '../output/format.ts'
import type { Progress } from '../output/progress.ts'
import type { Column } from '../output/table.ts'
import { shortId, size } from '../output/text.ts'
import { UsageError } from '../report.ts'
import { snapshotId } from '../snapshots.ts'

interface Options {
  readonly all?: boolean
}

export function snapshotVerifyCommand(cli: Cli): Command {
  return command('verify', 'Read every byte of snapshots and compare it with what was saved; exits 1 if something is damaged', [
    ['hypeman snapshot verify before-upgrade', 'a line for each of its files'],
    ['hypeman snapshot verify --all --format json', 'all snapshots, for programs'],
  ])
    .argument('[snapshot...]', 'name, id or unique beginning of an id')
    .option('--all', 'all snapshots, also those whose record can not be read')
    .action(async (refs: string[], { all }: Options, self: Command) => {
      if ((all === true) === refs.length > 0) throw new UsageError('name snapshots, or give --all')
      const session = await cli.session(self)
      const results: SnapshotVerification[] = []
      {
        using progress = session.progress()
        const verify = async (id?: string): Promise<void> => {
          for await (const event of session.client.snapshots.verify(id, { signal: session.signal })) take(event, results, progress)
        }
        if (all === true) await verify()
        else
          await each(cli, session, refs, async (ref) => {
            progress.say(`Verifying ${ref}`)
            await verify(await snapshotId(session, ref))
          })
      }
      await report(session, results)
      if (results.some(({ status }) => status === 'bad')) cli.exitCode = 1
    })
}

function take(event: VerifyEvent, results: SnapshotVerification[], progress: Progress): void {
  if (event.type === 'result') {
    const { type: _type, ...result } = event
    results.push(result)
  } else {
    progress.say(`Verifying ${shortId(event.snapshot_id)}`, `${event.file} (${size(event.done_bytes)} of ${size(event.total_bytes)})`)
  }
}

async function report(session: Session, results: readonly SnapshotVerification[]): Promise<void> {
  // Answers of this kind are streams: raw ones would be in the server's own words, event by event.
  if (session.format === 'raw') return await printList({ ...session, format: 'json' }, results, [])
  if (session.format !== 'auto' && session.format !== 'table') return await printList(session, results, [])
  const rows = results.flatMap(({ snapshot_id: id, files }) => files.map((file) => ({ id, ...file })))
  await printList(session, rows, columns)
  const bad = results.filter(({ status }) => status === 'bad').length
  if (bad > 0)
    session.note(
      `${bad} of ${results.length} snapshots ${bad === 1 ? 'is' : 'are'} damaged: use others, or put the files back from a copy.`,
    )
  if (results.some(({ status }) => status === 'incomplete'))
    session.note('Some files had no digest to compare with yet. They have now: verify again to compare.')
}

type Row = SnapshotVerification['files'][number] & { readonly id: string }

const columns: readonly Column<Row>[] = [
  { title: 'SNAPSHOT ID', value: (row) => shortId(row.id) },
  { title: 'FILE', value: (row) => row.name, cut: true },
  { title: 'STATUS', value: (row) => row.status.replace('_', ' ') },
  { title: 'READ', value: (row) => (row.read_bytes === undefined ? '-' : size(row.read_bytes)), right: true },
  { title: 'WHAT', value: (row) => row.message ?? '', cut: true },
]
