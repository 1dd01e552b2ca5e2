// hypeman doctor: what this host has and lacks, what that means, and what to do about it. Works without a server.
// The facts are found by platform/host.ts and by the hypervisors themselves; this only shows them.

import { styleText } from 'node:util'
import { Command, Option } from 'commander'
import type { Probe } from '../../platform/probe.ts'
import { withExamples } from '../command.ts'
import type { Cli } from '../context.ts'
import type { LoadHostHypervisors } from '../host-hypervisors.ts'
import { write } from '../terminal.ts'

/** Exit code 1 if something essential is missing. */
export function doctorCommand(cli: Pick<Cli, 'terminal' | 'exitCode'>, hypervisors: LoadHostHypervisors): Command {
  const made = new Command('doctor')
    .description('Tell what this host has and lacks, and what that means')
    .addOption(new Option('--data-dir <directory>', 'directory of the server to judge').env('DATA_DIR').default('/var/lib/hypeman'))
    .option('--json', 'print JSON')
    .action(async (options: { readonly dataDir: string; readonly json?: boolean }) => {
      const { probeHost } = await import('../../platform/host.ts')
      const host = await probeHost(options.dataDir, { fresh: true })
      // After KVM was tried: what the hypervisors are told of it is that verdict.
      const probes = [...(await (await hypervisors()).probe(options.dataDir)), ...host].toSorted(essentialFirst)
      const ok = missingEssentials(probes).length === 0
      await write(cli.terminal.stdout, options.json === true ? `${JSON.stringify({ ok, probes }, null, 2)}\n` : formatProbes(probes))
      if (!ok) cli.exitCode = 1
    })
  return withExamples(made, [
    ['hypeman doctor', 'what is there, what is missing and how to repair it'],
    ['hypeman doctor --json --data-dir /srv/hypeman', 'for programs, about another data directory'],
  ])
}

/** One line for each fact that is as it should be; where one is not, two more with its meaning and its repair. */
export function formatProbes(probes: readonly Probe[]): string {
  const width = Math.max(...probes.map((probe) => probe.name.length)) + 2
  const indent = ' '.repeat(width + 2)
  const lines = probes.flatMap((probe) => {
    const head = `${mark(probe)} ${probe.name.padEnd(width)}${probe.value}`
    if (probe.ok) return [`${head}: ${probe.means}`]
    return [head, `${indent}${probe.means}`, ...(probe.fix === undefined ? [] : [`${indent}${styleText('bold', `fix: ${probe.fix}`)}`])]
  })
  return `${[...lines, '', conclusion(missingEssentials(probes))].join('\n')}\n`
}

function essentialFirst(one: Probe, other: Probe): number {
  return Number(other.essential) - Number(one.essential)
}

function missingEssentials(probes: readonly Probe[]): string[] {
  return probes.filter((probe) => probe.essential && !probe.ok).map((probe) => probe.name)
}

function mark(probe: Probe): string {
  if (probe.ok) return styleText('green', '✔')
  return probe.essential ? styleText('red', '✖') : styleText('yellow', '!')
}

function conclusion(missing: readonly string[]): string {
  return missing.length === 0 ? 'Nothing essential is missing.' : `Essential and missing: ${missing.join(', ')}.`
}
