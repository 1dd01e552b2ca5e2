// hypeman fork-check: makes forks of a snapshot, compares what should be each one's own, and deletes them again.

import { Option, type Command } from 'commander'
import { positiveNumber, repeated } from '../arguments.ts'
import { command } from '../command.ts'
import type { Cli, Session } from '../context.ts'
import { isFault, judge, type Verdict } from '../fork-check/judge.ts'
import { observeForks, type CheckedForks } from '../fork-check/run.ts'
import { printLines, printList, printObject } from '../output/format.ts'
import type { Column } from '../output/table.ts'
import { describeError, UsageError } from '../report.ts'
import { snapshotId } from '../snapshots.ts'

interface Options {
  readonly count: number
  readonly parallel: number
  readonly ignore?: readonly string[]
  readonly json?: boolean
}

export function forkCheckCommand(cli: Cli): Command {
  return command('fork-check', 'Fork a snapshot many times and see that no two forks share what must be their own; exits 1 if they do', [
    ['hypeman fork-check warm', '20 forks, four at a time, deleted again'],
    ['hypeman fork-check warm --count 100 --json', 'more of them, with a result for programs'],
    ['hypeman fork-check warm --ignore ssh-host-key', 'SSH host keys may be the same'],
  ])
    .argument('<snapshot>', 'name, id or unique beginning of an id')
    .addOption(new Option('--count <count>', 'how many forks to make').argParser(positiveNumber).default(20))
    .addOption(new Option('--parallel <count>', 'how many there are at once').argParser(positiveNumber).default(4))
    .option('--ignore <probe>', 'what does not count, by the name in the table; may be repeated', repeated)
    .option('--json', 'the same as --format json')
    .action(async (ref: string, { count, parallel, ignore = [], json }: Options, self: Command) => {
      if (count < 2) throw new UsageError('--count: two forks at least are needed to compare them')
      const opened = await cli.session(self)
      const session: Session = json === true ? { ...opened, format: 'json' } : opened
      const checked = await observeForks(session, { snapshotId: await snapshotId(session, ref), count, parallel })
      const verdicts = judge(checked.observations).map((one): Verdict =>
        isFault(one) && ignore.includes(one.probe) ? { ...one, verdict: 'told' } : one,
      )
      await report(session, checked, verdicts)
      if (checked.failures.length > 0 || verdicts.some(isFault)) cli.exitCode = 1
    })
}

async function report(session: Session, { observations, failures }: CheckedForks, verdicts: readonly Verdict[]): Promise<void> {
  for (const { name, error } of failures) session.note(`${name}: ${describeError(error, session.settings.debug)}`)
  const forks = observations.length
  const collisions = verdicts.filter(isFault).length
  if (session.format !== 'auto' && session.format !== 'table')
    return await printObject(
      { ...session, format: session.format === 'raw' ? 'json' : session.format },
      { forks, failed: new Set(failures.map(({ name }) => name)).size, collisions, probes: verdicts },
    )
  await printList(session, verdicts, columns)
  await printLines(session, [`${forks} ${forks === 1 ? 'fork' : 'forks'}, ${collisions} ${collisions === 1 ? 'collision' : 'collisions'}`])
}

const columns: readonly Column<Verdict>[] = [
  { title: 'PROBE', value: ({ probe }) => probe },
  { title: 'WHAT', value: ({ title }) => title, cut: true },
  { title: 'FORKS', value: ({ forks }) => String(forks), right: true },
  { title: 'DISTINCT', value: ({ distinct }) => String(distinct), right: true },
  { title: 'VERDICT', value: ({ verdict }) => verdict },
  { title: 'NOTE', value: ({ note }) => note ?? '', cut: true },
]
