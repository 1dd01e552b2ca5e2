// npm run stress: captures a busy guest again and again, in each way in which memory is saved, and looks into a fork of every capture.
// Takes hours in full; prints a line for each bad capture and a table in the end, and exits 1 if there was one.

import { parseArgs } from 'node:util'
import { runMachine } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { tableLines, type Column } from '../../src/cli/output/table.ts'
import { counterOf, faultsOf, makeBusy } from './busy-guest.ts'

/** live: while it runs. copy: a machine that booted stands still. diff: a machine that was restored stands still, and what changed is copied. */
const modes = ['live', 'copy', 'diff'] as const
type Mode = (typeof modes)[number]

const usage = `Usage: npm run stress [-- [--captures 300] [${modes.join('|')}]...]\n`

interface Tally {
  readonly mode: Mode
  captures: number
  bad: number
  longestPauseMs: number
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { captures: { type: 'string', default: '300' }, help: { type: 'boolean' } },
})
const captures = Number(values.captures)
const chosen = positionals.length === 0 ? modes : modes.filter((mode) => positionals.includes(mode))
if (values.help === true) process.stdout.write(usage)
else if (!Number.isInteger(captures) || captures < 1 || chosen.length < new Set(positionals).size) {
  process.stderr.write(usage)
  process.exitCode = 2
} else {
  const tallies: Tally[] = []
  for (const mode of chosen) tallies.push(await stress(mode))
  const columns: readonly Column<Tally>[] = [
    { title: 'MODE', value: ({ mode }: Tally) => mode },
    { title: 'CAPTURES', value: (tally: Tally) => String(tally.captures), right: true },
    { title: 'BAD', value: ({ bad }: Tally) => String(bad), right: true },
    { title: 'LONGEST PAUSE', value: ({ longestPauseMs }: Tally) => `${Math.round(longestPauseMs)} ms`, right: true },
  ]
  console.log(tableLines(columns, tallies).join('\n'))
  process.exitCode = tallies.every(({ bad }) => bad === 0) ? 0 : 1
}

async function stress(mode: Mode): Promise<Tally> {
  await using server = await startServer({ SNAPSHOTS__LIVE: String(mode === 'live') })
  const { client } = server
  const id = await runMachine(server, { name: 'busy', size: '256MB' })
  await makeBusy(server, id)
  if (mode === 'diff') {
    await client.instances.standby(id)
    await client.instances.restore(id)
  }
  const tally: Tally = { mode, captures: 0, bad: 0, longestPauseMs: 0 }
  while (tally.captures < captures) {
    const least = await counterOf(server, id)
    const snapshot = await client.instances.snapshots.create(id, { kind: 'Standby' })
    tally.captures += 1
    tally.longestPauseMs = Math.max(tally.longestPauseMs, (snapshot as { readonly paused_ms?: number }).paused_ms ?? 0)
    const faults = await forked(snapshot.id, least)
    if (faults !== '') {
      tally.bad += 1
      console.log(`${mode} ${tally.captures}: ${faults}`)
    }
    await client.snapshots.delete(snapshot.id)
    if (tally.captures % 10 === 0) process.stderr.write(`${mode}: ${tally.captures} of ${captures}, ${tally.bad} bad\n`)
  }
  return tally

  async function forked(snapshotId: string, least: number): Promise<string> {
    try {
      const fork = await client.snapshots.fork(snapshotId, { name: 'fork' })
      const faults = await faultsOf(server, fork.id, least)
      await client.instances.delete(fork.id)
      return faults
    } catch (error) {
      await client.instances.delete('fork').catch(() => undefined) // it may not have come into being
      return String(error)
    }
  }
}
