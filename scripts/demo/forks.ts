// What each fork says of itself, as a table, and the proof that no two say the same where they must differ.

import { tableLines, type Column } from '../../src/cli/output/table.ts'
import type { World } from './world.ts'

export interface ForkReport {
  readonly name: string
  readonly ms: number
  readonly file: string
  /** The counter, read twice. */
  readonly counts: readonly [first: number, second: number]
  readonly hostname: string
  readonly mac: string
  readonly machineId: string
  readonly random: string
}

/** Asks the fork itself, in one command. */
export async function tellFork({ run }: Pick<World, 'run'>, name: string, file: string, ms: number): Promise<ForkReport> {
  const question = [
    `cat ${file}`,
    'first=$(cat /run/counter); echo $first',
    'until [ "$(cat /run/counter)" -gt "$first" ] 2>/dev/null; do sleep 0.05; done; cat /run/counter',
    'hostname',
    'cat /sys/class/net/eth0/address',
    'cat /etc/machine-id',
    'head -c 8 /dev/urandom | xxd -p',
  ]
  const answer = (await run(name, question.join('; '))).split('\n')
  const [text = '', first, second, hostname = '', mac = '', machineId = '', random = ''] = answer
  return { name, ms, file: text, counts: [Number(first), Number(second)], hostname, mac, machineId, random }
}

const columns: readonly Column<ForkReport>[] = [
  { title: 'FORK', value: (fork) => fork.name },
  { title: 'READY IN', value: (fork) => `${Math.round(fork.ms)} ms`, right: true },
  { title: 'FILE', value: (fork) => fork.file },
  { title: 'COUNTING', value: ({ counts: [first, second] }) => `${first} → ${second}` },
  { title: 'HOSTNAME', value: (fork) => fork.hostname },
  { title: 'MAC', value: (fork) => fork.mac },
  { title: 'MACHINE-ID', value: (fork) => `${fork.machineId.slice(0, 12)}…` },
  { title: 'RANDOM', value: (fork) => fork.random },
]

export function showForks(forks: readonly ForkReport[]): void {
  console.log(`\n${tableLines(columns, forks).join('\n')}\n`)
}

/** Throws what is not as it must be. */
export function proveForks(forks: readonly ForkReport[], file: string): void {
  for (const fork of forks) {
    const [first, second] = fork.counts
    if (fork.file !== file) throw new Error(`the file in ${fork.name} says ${JSON.stringify(fork.file)}`)
    if (!(second > first)) throw new Error(`the program in ${fork.name} does not count: ${first}, then ${second}`)
    if (fork.hostname !== fork.name) throw new Error(`${fork.name} calls itself ${fork.hostname}`)
  }
  for (const what of ['mac', 'machineId', 'random'] as const) {
    const values = forks.map((fork) => fork[what])
    if (values.includes('') || new Set(values).size !== forks.length)
      throw new Error(`two forks have the same ${what}: ${values.join(', ')}`)
  }
}
