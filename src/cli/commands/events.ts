// hypeman events: what was done with an instance, step by step, and how long each step took.

import { Option, type Command } from 'commander'
import type { InstanceEvent } from '../../client/client.ts'
import { wholeNumber } from '../arguments.ts'
import { command } from '../command.ts'
import type { Cli } from '../context.ts'
import { styleState } from '../context.ts'
import { printLines } from '../output/format.ts'
import { milliseconds } from '../output/text.ts'

interface Options {
  readonly follow?: boolean
  readonly tail: number
}

export function eventsCommand(cli: Cli): Command {
  return command('events', 'Show what was done with an instance, step by step', [
    ['hypeman events web', 'its history'],
    ['hypeman events -f --tail 0 web', 'what happens from now on'],
    ['hypeman events --format jsonl web', 'an object of JSON a line'],
  ])
    .argument('<instance>', 'id, name or unique beginning of an id')
    .option('-f, --follow', 'go on with what happens')
    .addOption(new Option('--tail <events>', 'events of the past').argParser(wholeNumber).default(1000))
    .action(async (name: string, options: Options, self: Command) => {
      const session = await cli.session(self)
      const forPeople = session.format === 'auto' || session.format === 'table'
      const { tail, follow = false } = options
      for await (const event of session.client.instances.events(name, { tail, follow }, { signal: session.signal }))
        await printLines(session, [forPeople ? eventLine(event, session.color) : JSON.stringify(event)])
    })
}

/** `2026-11-24 20:36:20.123  create.boot     412 ms`. */
export function eventLine(event: InstanceEvent, color: boolean): string {
  const time = event.time.replace('T', ' ').replace('Z', '')
  if (event.type === 'state') return `${time}  ${color ? styleState(event.state) : event.state}: ${event.message}`
  if (event.type === 'restart') return `${time}  restart: ${event.message}`
  if (event.type === 'health') return `${time}  ${event.status}: ${event.message}`
  const step = `${time}  ${`${event.flow}.${event.step}`.padEnd(32)} ${milliseconds(event.ms).padStart(9)}`
  if (event.error !== undefined) return `${step}  failed: ${event.error}`
  if (event.warning !== undefined) return `${step}  warning: ${event.warning}`
  return event.note === undefined ? step : `${step}  (${event.note})`
}
