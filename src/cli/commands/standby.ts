// hypeman standby: writes instances' memory to disk and frees it.

import type { Command } from 'commander'
import type { SnapshotCompression } from '../../client/client.ts'
import { compression } from '../arguments.ts'
import { command } from '../command.ts'
import type { Cli } from '../context.ts'
import { eachInstance } from '../each.ts'

interface Options {
  readonly compress?: SnapshotCompression
  readonly compressDelay?: string
}

export function standbyCommand(cli: Cli): Command {
  return command('standby', 'Write the memory of instances to disk and end their VMs; restore brings them back as they were', [
    ['hypeman standby web', 'frees the memory of web'],
    ['hypeman standby web --compress zstd:3', 'takes less room on disk, and a moment more to restore'],
    ['hypeman standby web --compress lz4 --compress-delay 10m', 'unless it is restored within ten minutes'],
    ['hypeman restore web', 'goes on where it was'],
  ])
    .argument('<instance...>', 'id, name or unique beginning of an id')
    .option(
      '--compress <algorithm[:level]>',
      "compress the memory afterwards: zstd[:1-19], lz4[:0-9] or none; by default the instance's policy",
      compression,
    )
    .option('--compress-delay <duration>', "leave it as it is for so long before that, such as 5m; by default the instance's policy")
    .action(async (names: string[], options: Options, self: Command) => {
      const session = await cli.session(self)
      const { signal } = session
      const body = { compression: options.compress, compression_delay: options.compressDelay }
      await eachInstance(
        cli,
        session,
        names,
        (name) => `Writing the memory of ${name} to disk`,
        (name) => session.client.instances.standby(name, body, { signal }),
      )
    })
}
