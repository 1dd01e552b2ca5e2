// hypeman snapshot …: instants of instances, to go back to or to make instances of. fork is in snapshot-fork.ts.

import { Option, type Command } from 'commander'
import type { RestoreSnapshot, SnapshotCompression, SnapshotKind, TargetState } from '../../client/client.ts'
import { compression, keyValue } from '../arguments.ts'
import { command, group } from '../command.ts'
import type { Cli } from '../context.ts'
import { each } from '../each.ts'
import { printLines, printList, printObject } from '../output/format.ts'
import { milliseconds } from '../output/text.ts'
import { snapshotId } from '../snapshots.ts'
import { snapshotKinds, targetStates } from '../states.ts'
import { snapshotColumns } from '../views.ts'
import { snapshotScheduleCommand } from './snapshot-schedule.ts'
import { snapshotVerifyCommand } from './snapshot-verify.ts'
import { snapshotForkCommand } from './snapshot-fork.ts'

export function snapshotCommand(cli: Cli): Command {
  return group('snapshot', 'snapshots', 'Make, restore, fork, schedule, verify, list and delete snapshots', [
    createCommand(cli),
    restoreCommand(cli),
    snapshotForkCommand(cli),
    snapshotVerifyCommand(cli),
    listCommand(cli),
    getCommand(cli),
    deleteCommand(cli),
    snapshotScheduleCommand(cli),
  ])
}

interface CreateOptions {
  readonly kind?: SnapshotKind
  readonly name?: string
  readonly tag?: Readonly<Record<string, string>>
  readonly compress?: SnapshotCompression
}

function createCommand(cli: Cli): Command {
  return command('create', 'Keep an instant of an instance; one that runs goes on running', [
    ['hypeman snapshot create web', 'with its memory'],
    ['hypeman snapshot create web --name before-upgrade --tag team=web', 'with a name to go back to'],
    ['hypeman snapshot create web --compress zstd:3', 'whose memory takes less room, and forks a moment more'],
    ['hypeman snapshot create db --kind Stopped', 'of a stopped instance: its disks'],
  ])
    .argument('<instance>', 'id, name or unique beginning of an id')
    .addOption(
      new Option('--kind <kind>', 'Standby: memory and disks; Stopped: disks')
        .choices(snapshotKinds)
        .default(undefined, 'Stopped for a stopped instance, else Standby'),
    )
    .option('--name <name>', 'name, unique among the snapshots of the instance')
    .option('-l, --tag <key=value>', 'tag of the snapshot; may be repeated', keyValue)
    .option(
      '--compress <algorithm[:level]>',
      "compress the memory afterwards: zstd[:1-19], lz4[:0-9] or none; by default the instance's policy",
      compression,
    )
    .action(async (name: string, options: CreateOptions, self: Command) => {
      const session = await cli.session(self)
      const { client, signal } = session
      using progress = session.progress()
      progress.say(`Making a snapshot of ${name}`)
      const kind = options.kind ?? ((await client.instances.get(name, { signal })).state === 'Stopped' ? 'Stopped' : 'Standby')
      const body = { kind, name: options.name, tags: options.tag, compression: options.compress }
      const snapshot = await client.instances.snapshot(name, body, { signal })
      if (snapshot.paused_ms !== undefined && snapshot.paused_ms > 0)
        session.note(`${name} stood still for ${milliseconds(snapshot.paused_ms)}`)
      await printObject(session, snapshot, snapshot.id)
    })
}

interface TargetOptions {
  readonly targetState?: TargetState
  readonly targetHypervisor?: string
}

function restoreCommand(cli: Cli): Command {
  return command('restore', 'Bring an instance back to one of its snapshots', [
    ['hypeman snapshot restore web before-upgrade', 'by the name of the snapshot; web must not run'],
    ['hypeman snapshot restore web tz4a98xx --target-state Stopped', 'its disks only'],
  ])
    .argument('<instance>', 'id, name or unique beginning of an id')
    .argument('<snapshot>', 'name, id or unique beginning of an id')
    .addOption(new Option('--target-state <state>', "state afterwards; by default the snapshot's").choices(targetStates))
    .option('--target-hypervisor <name>', 'another hypervisor; from snapshots without memory only')
    .action(async (name: string, ref: string, options: TargetOptions, self: Command) => {
      const session = await cli.session(self)
      const { signal } = session
      using progress = session.progress()
      progress.say(`Restoring ${name} to ${ref}`)
      const id = await snapshotId(session, ref, name)
      const body = {
        target_state: options.targetState,
        target_hypervisor: options.targetHypervisor as RestoreSnapshot['target_hypervisor'],
      }
      const instance = await session.client.instances.restoreSnapshot(name, id, body, { signal })
      await printObject(session, instance, instance.name)
    })
}

interface ListOptions {
  readonly quiet?: boolean
  readonly name?: string
  readonly sourceInstanceId?: string
  readonly kind?: SnapshotKind
  readonly tag?: Readonly<Record<string, string>>
}

function listCommand(cli: Cli): Command {
  return command('list', 'List snapshots', [
    ['hypeman snapshot list', 'all'],
    ['hypeman snapshot list web', 'those of an instance'],
    ['hypeman snapshot list -q --kind Standby --tag team=web', 'ids of those with memory and a tag'],
  ])
    .alias('ls')
    .argument('[instance]', 'only snapshots of this instance: id, name or beginning of an id')
    .option('-q, --quiet', 'print ids only')
    .option('--name <name>', 'only snapshots with this name')
    .option('--source-instance-id <id>', 'only snapshots of the instance with this id')
    .addOption(new Option('--kind <kind>', 'only snapshots of this kind').choices(snapshotKinds))
    .option('-l, --tag <key=value>', 'only snapshots with this tag; may be repeated', keyValue)
    .action(async (instance: string | undefined, options: ListOptions, self: Command) => {
      const session = await cli.session(self)
      const { name, kind, tag, sourceInstanceId } = options
      const all = await session.client.snapshots.list(
        { source_instance_id: sourceInstanceId, name, kind, tags: tag },
        { signal: session.signal },
      )
      const snapshots = all.filter(
        (one) => instance === undefined || one.source_instance_name === instance || one.source_instance_id.startsWith(instance),
      )
      if (options.quiet === true)
        return await printLines(
          session,
          snapshots.map((one) => one.id),
        )
      await printList(session, snapshots, snapshotColumns)
    })
}

function getCommand(cli: Cli): Command {
  return command('get', 'Show everything about a snapshot', [['hypeman snapshot get before-upgrade', 'as JSON']])
    .alias('inspect')
    .argument('<snapshot>', 'name, id or unique beginning of an id')
    .action(async (ref: string, _options: object, self: Command) => {
      const session = await cli.session(self)
      const id = await snapshotId(session, ref)
      await printObject(session, await session.client.snapshots.get(id, { signal: session.signal }))
    })
}

function deleteCommand(cli: Cli): Command {
  return command('delete', 'Delete snapshots; their source and forks stay as they are', [
    ['hypeman snapshot delete before-upgrade', 'by name'],
    ['hypeman snapshot delete $(hypeman snapshot list -q web)', 'all of an instance'],
  ])
    .alias('rm')
    .argument('<snapshot...>', 'name, id or unique beginning of an id')
    .action(async (refs: string[], _options: object, self: Command) => {
      const session = await cli.session(self)
      using progress = session.progress()
      await each(cli, session, refs, async (ref) => {
        progress.say(`Deleting ${ref}`)
        await session.client.snapshots.delete(await snapshotId(session, ref), { signal: session.signal })
        await printLines(session, [ref])
      })
    })
}
