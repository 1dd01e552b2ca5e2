// hypeman rm: deletes instances. What runs is only deleted when the user says so: by a flag, or when asked.

import type { Command } from 'commander'
import { ApiError } from '../../client/errors.ts'
import type { Instance } from '../../client/client.ts'
import { command } from '../command.ts'
import type { Cli, Session } from '../context.ts'
import { each } from '../each.ts'
import { printLines } from '../output/format.ts'
import { canAsk, confirm } from '../output/prompt.ts'
import { UsageError } from '../report.ts'

interface Options {
  readonly force?: boolean
  readonly all?: boolean
  readonly graceful?: boolean
}

export function rmCommand(cli: Cli): Command {
  return command('rm', 'Delete instances with their disks; snapshots of them stay', [
    ['hypeman rm web', 'asks first if it runs, and refuses without a terminal'],
    ['hypeman rm -f web db', 'also if they run'],
    ['hypeman rm --all', 'everything that does not run'],
  ])
    .argument('[instance...]', 'id, name or unique beginning of an id')
    .option('-f, --force', "also delete what runs, and don't mind what is gone already")
    .option('--all', 'all instances')
    .option('--graceful', 'give each guest a moment to shut down first')
    .action(async (names: string[], options: Options, self: Command) => {
      if (options.all === true ? names.length > 0 : names.length === 0) throw new UsageError('name the instances, or give --all')
      const session = await cli.session(self)
      using progress = session.progress()
      const remove = async (name: string): Promise<void> => {
        progress.say(`Deleting ${name}`)
        await session.client.instances.delete(name, { graceful_shutdown: options.graceful === true }, { signal: session.signal })
        await printLines(session, [name])
      }
      if (options.all === true) return await removeAll(cli, session, options.force === true, remove)
      await each(cli, session, names, async (name) => {
        if (options.force === true) return await remove(name).catch(ignoreMissing)
        const instance = await session.client.instances.get(name, { signal: session.signal })
        if (isUp(instance)) await agree(cli, session, instance)
        await remove(name)
      })
    })
}

async function removeAll(cli: Cli, session: Session, force: boolean, remove: (name: string) => Promise<void>): Promise<void> {
  const all = await session.client.instances.list({}, { signal: session.signal })
  const chosen = all.filter((instance) => force || !isUp(instance))
  await each(
    cli,
    session,
    chosen.map((instance) => instance.name),
    (name) => remove(name).catch(ignoreMissing),
  )
  if (chosen.length < all.length) session.note(`${all.length - chosen.length} still run; --force deletes them, too`)
}

async function agree(cli: Cli, session: Session, instance: Instance): Promise<void> {
  session.makeRoom()
  if (canAsk(cli.terminal) && (await confirm(cli.terminal, `${instance.name} is ${instance.state}. Delete it?`))) return
  throw new Error(`${instance.name} is ${instance.state} and was not deleted; stop it first, or give --force`)
}

function isUp(instance: Instance): boolean {
  return instance.state !== 'Stopped' && instance.state !== 'Standby' && instance.state !== 'Shutdown'
}

function ignoreMissing(error: unknown): void {
  if (!(error instanceof ApiError && error.status === 404)) throw error // what is gone already needs no deleting
}
