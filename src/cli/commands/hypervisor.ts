// hypeman hypervisor: which versions of hypervisors' programs this host has, and installing and removing them. Works without a server.

import { Option, type Command } from 'commander'
import { command, group } from '../command.ts'
import type { Cli, Session } from '../context.ts'
import type { HostHypervisors, HypervisorProgram, LoadHostHypervisors } from '../host-hypervisors.ts'
import { printList, printObject } from '../output/format.ts'
import type { Column } from '../output/table.ts'
import { size } from '../output/text.ts'
import { UsageError } from '../report.ts'

interface InstallOptions {
  readonly dataDir: string
  readonly from?: string
  readonly sha256?: string
}

export function hypervisorCommand(cli: Cli, load: LoadHostHypervisors): Command {
  return group('hypervisor', undefined, "Look after the programs of this host's hypervisors", [
    listCommand(cli, load),
    installCommand(cli, load),
    removeCommand(cli, load),
  ])
}

/** Of the server whose programs they are; on this host. */
function dataDirectory(): Option {
  return new Option('--data-dir <directory>', 'data directory of the server').env('DATA_DIR').default('/var/lib/hypeman')
}

const columns: readonly Column<HypervisorProgram>[] = [
  { title: 'HYPERVISOR', value: (one) => one.hypervisor },
  { title: 'VERSION', value: (one) => one.version },
  { title: 'NEW MACHINES', value: (one) => (one.usual ? 'yes' : 'no') },
  { title: 'PROGRAM', value: (one) => one.path ?? "on PATH, or a setting's", cut: true },
]

function listCommand(cli: Cli, load: LoadHostHypervisors): Command {
  return command('list', 'List the versions that are here, and which of them new machines start on', [
    ['hypeman hypervisor list', 'as a table'],
    ['hypeman hypervisor list --format json --data-dir /srv/hypeman', 'for programs, of another server'],
  ])
    .alias('ls')
    .addOption(dataDirectory())
    .action(async ({ dataDir }: { readonly dataDir: string }, self: Command) => {
      const session = await cli.session(self)
      const programs = await (await load()).list(dataDir)
      await printList(plain(session, programs), programs, columns)
    })
}

function installCommand(cli: Cli, load: LoadHostHypervisors): Command {
  return command('install', 'Install a version beside those that are here; new machines start on the newest', [
    ['hypeman hypervisor install firecracker@1.10.1', 'from its releases, compared with the checksum published there'],
    ['hypeman hypervisor install cloud-hypervisor@41.0 --sha256 <sum>', 'no checksums are published: take it from the page of the release'],
    ['hypeman hypervisor install firecracker@1.10.1 --from ./firecracker.tgz --sha256 <sum>', 'what was downloaded elsewhere'],
  ])
    .argument('<hypervisor@version>', 'for example firecracker@1.10.1')
    .option('--from <url-or-file>', 'another place of what the project publishes; needs --sha256')
    .option('--sha256 <sum>', 'what it must have, in hexadecimal')
    .addOption(dataDirectory())
    .action(async (name: string, options: InstallOptions, self: Command) => {
      const session = await cli.session(self)
      if (options.sha256 !== undefined && !/^[0-9a-f]{64}$/i.test(options.sha256))
        throw new UsageError('--sha256: a checksum has 64 hexadecimal digits')
      const programs = await load()
      const wanted = parseProgram(name, programs)
      using progress = session.progress()
      progress.say(`Installing ${name}`)
      const tell = (bytes: number, totalBytes: number | undefined): void =>
        progress.say(`Installing ${name}`, totalBytes === undefined ? size(bytes) : `${size(bytes)} of ${size(totalBytes)}`)
      const installed = await programs.install({ ...options, ...wanted }, { signal: session.signal, tell })
      await printObject(plain(session, installed), { hypervisor: wanted.hypervisor, ...installed }, installed.path)
    })
}

function removeCommand(cli: Cli, load: LoadHostHypervisors): Command {
  return command('remove', 'Remove an installed version; refused while memory that only it can restore is here', [
    ['hypeman hypervisor remove firecracker@1.9.0', 'new machines start on the newest that is left'],
  ])
    .alias('rm')
    .argument('<hypervisor@version>', 'for example firecracker@1.9.0')
    .option('-f, --force', 'also if memory needs it: it can then be started from its disks alone')
    .addOption(dataDirectory())
    .action(async (name: string, options: { readonly dataDir: string; readonly force?: boolean }, self: Command) => {
      const session = await cli.session(self)
      const programs = await load()
      const wanted = parseProgram(name, programs)
      await programs.remove({ dataDir: options.dataDir, ...wanted, force: options.force === true })
      await printObject(plain(session, wanted), wanted, name)
    })
}

function parseProgram(text: string, { installable }: HostHypervisors): { readonly hypervisor: string; readonly version: string } {
  const [, hypervisor, version] = /^([a-z][a-z-]*)@v?(\d[\w.-]*)$/.exec(text) ?? []
  if (hypervisor === undefined || version === undefined)
    throw new UsageError(`'${text}' names no version of a hypervisor: write one such as ${installable[0] ?? ''}@1.10.1`)
  if (!installable.includes(hypervisor))
    throw new UsageError(`${hypervisor} can't be installed or removed here: ${installable.join(' and ')} can; others come with the host`)
  return { hypervisor, version }
}

/** `raw` is what a server answered, and none was asked. */
function plain(session: Session, value: unknown): Session {
  return { ...session, raw: () => JSON.stringify(value) }
}
