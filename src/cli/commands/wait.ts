// hypeman wait: holds until an instance is in a state.

import { Option, type Command } from 'commander'
import { formatDuration } from '../../api/units.ts'
import type { InstanceState } from '../../client/client.ts'
import { durationMs } from '../arguments.ts'
import { command } from '../command.ts'
import type { Cli } from '../context.ts'
import { printLines, printObject } from '../output/format.ts'
import { instanceStates } from '../states.ts'

interface Options {
  readonly state: Exclude<InstanceState, 'Unknown'>
  readonly timeout: number
}

/** The server holds a request for five minutes at most; ours ask again before that, in milliseconds. */
const LONGEST_HOLD_MS = 240_000

export function waitCommand(cli: Cli): Command {
  return command('wait', 'Wait until an instance is in a state', [
    ['hypeman wait web --state Running', 'exits 0 once it runs'],
    ['hypeman wait job --state Stopped --timeout 30m', 'exits 1 if it has not ended in half an hour'],
  ])
    .argument('<instance>', 'id, name or unique beginning of an id')
    .addOption(
      new Option('--state <state>', 'the state to wait for')
        .choices(instanceStates.filter((state) => state !== 'Unknown'))
        .makeOptionMandatory(),
    )
    .addOption(new Option('--timeout <duration>', 'how long to wait').argParser(durationMs).default(60_000, '1m'))
    .action(async (name: string, options: Options, self: Command) => {
      const session = await cli.session(self)
      using progress = session.progress()
      progress.say(`Waiting until ${name} is ${options.state}`)
      const end = performance.now() + options.timeout
      for (;;) {
        const leftMs = Math.max(end - performance.now(), 0)
        const timeout = formatDuration(Math.ceil(Math.min(leftMs, LONGEST_HOLD_MS)))
        const result = await session.client.instances.wait(name, { state: options.state, timeout }, { signal: session.signal })
        const reached = result.state === options.state
        if (!reached && result.timed_out && performance.now() < end) continue
        if (session.format !== 'auto') await printObject(session, result)
        else await printLines(session, [result.state])
        if (reached) return
        cli.exitCode = 1
        const why = result.timed_out ? `in ${formatDuration(options.timeout)}` : 'and will not become so by itself'
        return session.note(
          `${name} did not become ${options.state} ${why}: it is ${result.state}${result.state_error ? ` (${result.state_error})` : ''}`,
        )
      }
    })
}
