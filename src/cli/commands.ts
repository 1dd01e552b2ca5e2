// Which commands there are, by the groups in which help shows them. Each comes from a file of its own that is only loaded when it is needed.

import type { Command } from 'commander'
import type { Cli } from './context.ts'
import type { Serve } from './commands/serve.ts'
import type { LoadHostHypervisors } from './host-hypervisors.ts'

/** What other parts of the product bring to the command line. */
export interface Parts {
  readonly serve: Serve
  readonly hypervisors: LoadHostHypervisors
}

export type Loader = (cli: Cli, parts: Parts) => Promise<Command>

export const commandGroups = {
  'Instances:': {
    run: async (cli) => (await import('./commands/run.ts')).runCommand(cli),
    ps: async (cli) => (await import('./commands/ps.ts')).psCommand(cli),
    inspect: async (cli) => (await import('./commands/inspect.ts')).inspectCommand(cli),
    logs: async (cli) => (await import('./commands/logs.ts')).logsCommand(cli),
    events: async (cli) => (await import('./commands/events.ts')).eventsCommand(cli),
    stats: async (cli) => (await import('./commands/stats.ts')).statsCommand(cli),
    exec: async (cli) => (await import('./commands/exec.ts')).execCommand(cli),
    cp: async (cli) => (await import('./commands/cp.ts')).cpCommand(cli),
    start: async (cli) => (await import('./commands/start.ts')).startCommand(cli),
    stop: async (cli) => (await import('./commands/stop.ts')).stopCommand(cli),
    standby: async (cli) => (await import('./commands/standby.ts')).standbyCommand(cli),
    restore: async (cli) => (await import('./commands/restore.ts')).restoreCommand(cli),
    'auto-standby': async (cli) => (await import('./commands/auto-standby.ts')).autoStandbyCommand(cli),
    fork: async (cli) => (await import('./commands/fork.ts')).forkCommand(cli),
    wait: async (cli) => (await import('./commands/wait.ts')).waitCommand(cli),
    update: async (cli) => (await import('./commands/update.ts')).updateCommand(cli),
    rm: async (cli) => (await import('./commands/rm.ts')).rmCommand(cli),
  },
  'Snapshots, images, volumes:': {
    snapshot: async (cli) => (await import('./commands/snapshot.ts')).snapshotCommand(cli),
    'fork-check': async (cli) => (await import('./commands/fork-check.ts')).forkCheckCommand(cli),
    image: async (cli) => (await import('./commands/image.ts')).imageCommand(cli),
    pull: async (cli) => (await import('./commands/pull.ts')).pullCommand(cli),
    push: async (cli) => (await import('./commands/push.ts')).pushCommand(cli),
    tag: async (cli) => (await import('./commands/image.ts')).tagCommand(cli, 'hypeman tag'),
    volume: async (cli) => (await import('./commands/volume.ts')).volumeCommand(cli),
  },
  'Server:': {
    serve: async (cli, parts) => (await import('./commands/serve.ts')).serveCommand(cli, parts.serve),
    doctor: async (cli, parts) => (await import('./commands/doctor.ts')).doctorCommand(cli, parts.hypervisors),
    hypervisor: async (cli, parts) => (await import('./commands/hypervisor.ts')).hypervisorCommand(cli, parts.hypervisors),
    token: async (cli) => (await import('./commands/token.ts')).tokenCommand(cli),
    health: async (cli) => (await import('./commands/server.ts')).healthCommand(cli),
    capabilities: async (cli) => (await import('./commands/server.ts')).capabilitiesCommand(cli),
    unreadable: async (cli) => (await import('./commands/unreadable.ts')).unreadableCommand(cli),
    resources: async (cli) => (await import('./commands/resources.ts')).resourcesCommand(cli),
    completion: async (cli) => (await import('./commands/completion.ts')).completionCommand(cli),
    // Needs all commands, and is therefore not found by its name alone.
    _: async (cli) => (await import('./commands/completion.ts')).completeCommand(cli),
  },
} as const satisfies Readonly<Record<string, Readonly<Record<string, Loader>>>>

const GLOBAL_FLAGS: ReadonlySet<string> = new Set(['--debug'])
const GLOBAL_OPTIONS: ReadonlySet<string> = new Set(['--base-url', '--api-key', '--format'])

/** The name of the command, behind global options; nothing if anything else comes first. */
export function firstWord(words: readonly string[]): string | undefined {
  for (let index = 0; index < words.length; index += 1) {
    const word = words[index] ?? ''
    if (GLOBAL_OPTIONS.has(word)) index += 1
    else if (!GLOBAL_FLAGS.has(word)) return word.startsWith('-') ? undefined : word
  }
  return undefined
}
