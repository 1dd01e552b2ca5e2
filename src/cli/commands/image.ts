// hypeman image …: the images that the server has.

import { createReadStream } from 'node:fs'
import type { Command } from 'commander'
import { keyValue } from '../arguments.ts'
import { command, group } from '../command.ts'
import type { Cli } from '../context.ts'
import { counted } from '../counted.ts'
import { each } from '../each.ts'
import { printLines, printList, printObject } from '../output/format.ts'
import { size } from '../output/text.ts'
import { imageColumns } from '../views.ts'
import { pullCommand } from './pull.ts'

interface ListOptions {
  readonly quiet?: boolean
  readonly tag?: Readonly<Record<string, string>>
}

export function imageCommand(cli: Cli): Command {
  return group('image', 'images', 'List, get, import, tag and delete images', [
    listCommand(cli),
    getCommand(cli),
    pullCommand(cli, 'create'),
    importCommand(cli),
    tagCommand(cli),
    deleteCommand(cli),
  ])
}

function listCommand(cli: Cli): Command {
  return command('list', 'List the images of the server', [
    ['hypeman image list', 'all'],
    ['hypeman image list -q --tag team=web', 'names of those with a tag'],
  ])
    .alias('ls')
    .option('-q, --quiet', 'print names only')
    .option('-l, --tag <key=value>', 'only images with this tag; may be repeated', keyValue)
    .action(async (options: ListOptions, self: Command) => {
      const session = await cli.session(self)
      const images = await session.client.images.list({ tags: options.tag }, { signal: session.signal })
      if (options.quiet === true)
        return await printLines(
          session,
          images.map((image) => image.name),
        )
      await printList(session, images, imageColumns)
    })
}

function getCommand(cli: Cli): Command {
  return command('get', 'Show everything about an image', [['hypeman image get alpine:3.20', 'as JSON']])
    .alias('inspect')
    .argument('<image>', 'reference in any spelling, or digest')
    .action(async (name: string, _options: object, self: Command) => {
      const session = await cli.session(self)
      await printObject(session, await session.client.images.get(name, { signal: session.signal }))
    })
}

function importCommand(cli: Cli): Command {
  return command('import', 'Make an image from an OCI archive or the output of docker save', [
    ['hypeman image import my/app:1 app.tar', 'from a file, plain or gzipped'],
    ['docker save my/app:1 | hypeman image import my/app:1 -', 'straight from Docker'],
  ])
    .argument('<name>', 'reference under which the image is kept')
    .argument('<archive>', 'file, or - for standard input')
    .option('-l, --tag <key=value>', 'tag of the image on the server; may be repeated', keyValue)
    .action(async (name: string, archive: string, options: ListOptions, self: Command) => {
      const session = await cli.session(self)
      using progress = session.progress()
      const bytes = archive === '-' ? session.terminal.stdin : createReadStream(archive)
      const image = await session.client.images.import(
        name,
        counted(bytes, (total) => progress.say(`Importing ${name}`, `(${size(total)})`)),
        options.tag,
        { signal: session.signal },
      )
      await printObject(session, image, image.name)
    })
}

export function tagCommand(cli: Cli, invocation = 'hypeman image tag'): Command {
  return command('tag', 'Give an image another name', [[`${invocation} alpine:3.20 base:latest`, 'both names stand for the same image']])
    .argument('<image>', 'reference in any spelling, or digest')
    .argument('<target>', 'the other reference, with a tag')
    .action(async (name: string, target: string, _options: object, self: Command) => {
      const session = await cli.session(self)
      const image = await session.client.images.tag(name, target, { signal: session.signal })
      await printObject(session, image, image.name)
    })
}

function deleteCommand(cli: Cli): Command {
  return command('delete', 'Delete images; instances that were made of them go on', [['hypeman image delete alpine:3.20', 'that name']])
    .alias('rm')
    .argument('<image...>', 'reference in any spelling, or digest')
    .action(async (names: string[], _options: object, self: Command) => {
      const session = await cli.session(self)
      await each(cli, session, names, async (name) => {
        await session.client.images.delete(name, { signal: session.signal })
        await printLines(session, [name])
      })
    })
}
