// hypeman volume …: disks that outlive instances.

import { createReadStream } from 'node:fs'
import { Option, type Command } from 'commander'
import { keyValue, layer, positiveNumber } from '../arguments.ts'
import { command, group } from '../command.ts'
import type { Cli } from '../context.ts'
import { counted } from '../counted.ts'
import { each } from '../each.ts'
import { printLines, printList, printObject } from '../output/format.ts'
import { size } from '../output/text.ts'
import { volumeColumns } from '../views.ts'

export function volumeCommand(cli: Cli): Command {
  return group('volume', 'volumes', 'Make, list, get, attach, detach and delete volumes', [
    createCommand(cli),
    listCommand(cli),
    getCommand(cli),
    attachCommand(cli),
    detachCommand(cli),
    deleteCommand(cli),
  ])
}

interface CreateOptions {
  readonly name: string
  readonly size: number
  readonly id?: string
  readonly tag?: Readonly<Record<string, string>>
  readonly fromArchive?: string
}

function createCommand(cli: Cli): Command {
  return command('create', 'Make a volume, empty or with the files of an archive', [
    ['hypeman volume create --name data --size 10', 'empty, 10 GB'],
    ['hypeman volume create --name site --size 1 --from-archive site.tar.gz', 'with files'],
    ['tar -cz -C site . | hypeman volume create --name site --size 1 --from-archive -', 'with files from here'],
  ])
    .requiredOption('--name <name>', 'name of the volume')
    .addOption(new Option('--size <gb>', 'size in GB').argParser(positiveNumber).makeOptionMandatory())
    .option('--id <id>', 'id of the volume; by default the server makes one')
    .option('-l, --tag <key=value>', 'tag of the volume; may be repeated', keyValue)
    .option('--from-archive <file>', 'gzipped tar archive with its files; - for standard input')
    .action(async (options: CreateOptions, self: Command) => {
      const session = await cli.session(self)
      const { signal } = session
      using progress = session.progress()
      const body = { name: options.name, size_gb: options.size, id: options.id, tags: options.tag }
      const archive = options.fromArchive === '-' ? session.terminal.stdin : options.fromArchive
      const volume =
        archive === undefined
          ? await session.client.volumes.create(body, { signal })
          : await session.client.volumes.createFromArchive(
              body,
              counted(typeof archive === 'string' ? createReadStream(archive) : archive, (total) =>
                progress.say(`Filling ${options.name}`, `(${size(total)})`),
              ),
              { signal },
            )
      await printObject(session, volume, volume.id)
    })
}

interface ListOptions {
  readonly quiet?: boolean
  readonly tag?: Readonly<Record<string, string>>
}

function listCommand(cli: Cli): Command {
  return command('list', 'List volumes and who uses them', [
    ['hypeman volume list', 'all'],
    ['hypeman volume list -q --tag team=web', 'ids of those with a tag'],
  ])
    .alias('ls')
    .option('-q, --quiet', 'print ids only')
    .option('-l, --tag <key=value>', 'only volumes with this tag; may be repeated', keyValue)
    .action(async (options: ListOptions, self: Command) => {
      const session = await cli.session(self)
      const volumes = await session.client.volumes.list({ tags: options.tag }, { signal: session.signal })
      if (options.quiet === true)
        return await printLines(
          session,
          volumes.map((volume) => volume.id),
        )
      await printList(session, volumes, volumeColumns)
    })
}

function getCommand(cli: Cli): Command {
  return command('get', 'Show everything about a volume', [['hypeman volume get data', 'as JSON']])
    .alias('inspect')
    .argument('<volume>', 'id or name')
    .action(async (name: string, _options: object, self: Command) => {
      const session = await cli.session(self)
      await printObject(session, await session.client.volumes.get(name, { signal: session.signal }))
    })
}

interface AttachOptions {
  readonly instance: string
  readonly mountPath: string
  readonly readonly?: boolean
  readonly overlay?: string
}

function attachCommand(cli: Cli): Command {
  return command('attach', 'Attach a volume to a stopped instance, whose guest finds it at its next start', [
    ['hypeman volume attach data --instance web --mount-path /srv', 'to be written to by web alone'],
    ['hypeman volume attach data -i web --mount-path /srv --readonly', 'to be read, by web and others'],
    ['hypeman volume attach data -i web --mount-path /srv --overlay 2GB', 'the same, and what web writes is its own'],
  ])
    .argument('<volume>', 'id or name')
    .requiredOption('-i, --instance <instance>', 'id, name or unique beginning of an id')
    .requiredOption('--mount-path <path>', 'where the guest sees it')
    .option('--readonly', 'only to be read; many instances may have it so')
    .option('--overlay <size>', 'the same, with what the guest writes going into a layer of its own of this size')
    .action(async (name: string, { instance, mountPath, readonly, overlay }: AttachOptions, self: Command) => {
      const session = await cli.session(self)
      const written = overlay === undefined ? { readonly } : layer(overlay)
      const body = { mount_path: mountPath, ...written }
      const changed = await session.client.instances.volumes.attach(instance, name, body, { signal: session.signal })
      await printObject(session, changed, changed.name)
    })
}

function detachCommand(cli: Cli): Command {
  return command('detach', 'Detach a volume from a stopped instance; what is on it stays', [
    ['hypeman volume detach data --instance web', 'free for others'],
  ])
    .argument('<volume>', 'id or name')
    .requiredOption('-i, --instance <instance>', 'id, name or unique beginning of an id')
    .action(async (name: string, { instance }: Pick<AttachOptions, 'instance'>, self: Command) => {
      const session = await cli.session(self)
      const changed = await session.client.instances.volumes.detach(instance, name, { signal: session.signal })
      await printObject(session, changed, changed.name)
    })
}

function deleteCommand(cli: Cli): Command {
  return command('delete', 'Delete volumes that nobody uses', [['hypeman volume delete data', 'with all that is on it']])
    .alias('rm')
    .argument('<volume...>', 'id or name')
    .action(async (names: string[], _options: object, self: Command) => {
      const session = await cli.session(self)
      await each(cli, session, names, async (name) => {
        await session.client.volumes.delete(name, { signal: session.signal })
        await printLines(session, [name])
      })
    })
}
