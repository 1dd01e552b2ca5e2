// hypeman snapshot fork: makes one instance out of a snapshot, or many at once.

import { Option, type Command } from 'commander'
import type { TargetState, ForkSnapshot, Instance } from '../../client/client.ts'
import { positiveNumber } from '../arguments.ts'
import { command } from '../command.ts'
import type { Cli, Session } from '../context.ts'
import { environmentOf, withEnvironmentOptions, type EnvironmentOptions } from '../environment.ts'
import { forkMany } from '../fork-many.ts'
import { printLines, printList, printObject } from '../output/format.ts'
import { describeError, UsageError } from '../report.ts'
import { snapshotId } from '../snapshots.ts'
import { targetStates } from '../states.ts'
import { instanceColumns } from '../views.ts'

interface Options extends EnvironmentOptions {
  readonly targetState?: TargetState
  readonly targetHypervisor?: string
  readonly count?: number
  readonly namePrefix?: string
  readonly parallel: number
}

export function snapshotForkCommand(cli: Cli): Command {
  const fork = command('fork', 'Make instances out of a snapshot: each goes on where it was taken, as a machine of its own', [
    ['hypeman snapshot fork before-upgrade web-2', 'one; printed when its agent has answered'],
    ['hypeman snapshot fork warm --count 50 --name-prefix worker', 'worker-1 to worker-50'],
    ['hypeman snapshot fork warm web-7 --env TENANT=7', 'with a variable of its own'],
    ['hypeman snapshot fork warm web-7 --secret-file tls.key=web-7.key', 'with a secret file of its own, there before its programs go on'],
  ])
    .argument('<snapshot>', 'name, id or unique beginning of an id')
    .argument('[name]', 'name of the new instance')
    .addOption(new Option('--target-state <state>', "state of the new instance; by default the snapshot's").choices(targetStates))
    .option('--target-hypervisor <name>', 'another hypervisor; from snapshots without memory only')
    .addOption(new Option('--count <count>', 'make this many').argParser(positiveNumber))
    .option('--name-prefix <prefix>', 'their names are this, a dash and a number from 1')
    .addOption(new Option('--parallel <count>', 'how many to make at once, with --count').argParser(positiveNumber).default(8))
  return withEnvironmentOptions(fork).action(async (ref: string, name: string | undefined, options: Options, self: Command) => {
    const { count, namePrefix } = options
    const many = count !== undefined || namePrefix !== undefined
    if (many && (count === undefined || namePrefix === undefined)) throw new UsageError('--count and --name-prefix go together')
    if (many === (name !== undefined)) throw new UsageError('give a name for one instance, or --count and --name-prefix for many')
    const environment = await environmentOf(options, cli.terminal)
    const session = await cli.session(self)
    const target = {
      ...environment,
      target_state: options.targetState,
      target_hypervisor: options.targetHypervisor as ForkSnapshot['target_hypervisor'],
    }
    if (name !== undefined) return await forkOne(session, ref, { name, ...target })
    const names = Array.from({ length: count ?? 0 }, (_, index) => `${namePrefix}-${index + 1}`)
    const rows = await forkMany(session, { snapshotId: await snapshotId(session, ref), names, target, parallel: options.parallel })
    const made = rows.flatMap((row) => row.instance ?? [])
    await printMade(session, made)
    for (const row of rows) if (row.state === 'failed') session.note(`${row.name}: ${describeError(row.error, session.settings.debug)}`)
    if (session.signal.aborted) session.note(`Interrupted: ${made.length} of ${rows.length} were made and stay`)
    session.signal.throwIfAborted()
    if (made.length < rows.length) cli.exitCode = 1
  })
}

async function forkOne(session: Session, ref: string, body: ForkSnapshot): Promise<void> {
  using progress = session.progress()
  progress.say(`Forking ${ref}`)
  const id = await snapshotId(session, ref)
  const instance = await session.client.snapshots.fork(id, body, { signal: session.signal })
  await printObject(session, instance, instance.id)
}

/** On a terminal the table of the progress has shown them already. */
async function printMade(session: Session, made: readonly Instance[]): Promise<void> {
  if (session.format !== 'auto') return await printList(session, made, instanceColumns)
  if (session.stdout.isTTY === true && session.terminal.stderr.isTTY === true) return
  await printLines(
    session,
    made.map((instance) => instance.id),
  )
}
