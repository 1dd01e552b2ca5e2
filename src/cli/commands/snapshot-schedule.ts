// hypeman snapshot schedule …: instances that are snapshotted by themselves.

import type { Command } from 'commander'
import type { Schedule } from '../../client/client.ts'
import { keyValue, wholeNumber } from '../arguments.ts'
import { command, group } from '../command.ts'
import type { Cli } from '../context.ts'
import { printLines, printObject } from '../output/format.ts'
import { ago } from '../output/text.ts'
import { UsageError } from '../report.ts'

const anInstance = ['<instance>', 'id, name or unique beginning of an id'] as const

export function snapshotScheduleCommand(cli: Cli): Command {
  return group('schedule', undefined, 'Have instances snapshotted by themselves, and old snapshots deleted', [
    setCommand(cli),
    getCommand(cli),
    deleteCommand(cli),
  ])
}

interface SetOptions {
  readonly interval: string
  readonly maxCount?: number
  readonly maxAge?: string
  readonly namePrefix?: string
  readonly metadata?: Readonly<Record<string, string>>
}

function setCommand(cli: Cli): Command {
  return command('set', 'Snapshot an instance again and again, or change how; what is left out is as for a new schedule', [
    ['hypeman snapshot schedule set web --interval 24h --max-count 7', 'each day; the seven newest stay'],
    ['hypeman snapshot schedule set db --interval 1h --max-age 168h --name-prefix hourly', 'each hour; they stay for a week'],
    ['hypeman snapshot schedule set db --interval 1h --max-count 24 --metadata team=web', 'with a tag on each'],
  ])
    .argument(...anInstance)
    .requiredOption('--interval <duration>', 'time from one snapshot to the next, such as 24h; at least 1m')
    .option('--max-count <n>', 'keep so many, the newest', wholeNumber)
    .option('--max-age <duration>', 'delete what is older, such as 168h')
    .option('--name-prefix <prefix>', 'what the names of the snapshots begin with; scheduled if it is left out')
    .option('-l, --metadata <key=value>', 'tag of the snapshots; may be repeated', keyValue)
    .action(async (name: string, options: SetOptions, self: Command) => {
      const { interval, maxCount, maxAge, namePrefix, metadata } = options
      if (maxCount === undefined && maxAge === undefined) throw new UsageError('give --max-count or --max-age, or both')
      const session = await cli.session(self)
      const schedule = await session.client.instances.schedule.set(
        name,
        { interval, retention: { max_count: maxCount, max_age: maxAge }, name_prefix: namePrefix, metadata },
        { signal: session.signal },
      )
      await printObject(session, schedule, nextRun(name, schedule))
    })
}

function getCommand(cli: Cli): Command {
  return command('get', 'Show the schedule of an instance and what became of its last run', [
    ['hypeman snapshot schedule get web', 'as JSON'],
    ['hypeman snapshot schedule get --format table web', 'a line for each field'],
  ])
    .argument(...anInstance)
    .action(async (name: string, _options: object, self: Command) => {
      const session = await cli.session(self)
      await printObject(session, await session.client.instances.schedule.get(name, { signal: session.signal }))
    })
}

function deleteCommand(cli: Cli): Command {
  return command('delete', 'End the schedule of an instance; its snapshots stay', [
    ['hypeman snapshot schedule delete web', 'no more snapshots by itself'],
  ])
    .alias('rm')
    .argument(...anInstance)
    .action(async (name: string, _options: object, self: Command) => {
      const session = await cli.session(self)
      await session.client.instances.schedule.delete(name, { signal: session.signal })
      await printLines(session, [name])
    })
}

function nextRun(name: string, schedule: Schedule): string {
  return `${name} is snapshotted every ${schedule.interval}, next ${ago(schedule.next_run_at)} (${schedule.next_run_at})`
}
