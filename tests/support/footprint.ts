// What a server holds of its host: descriptors, threads, machines, files. Equal before and after is what nothing leaked means.

import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import type { TestServer } from './server.ts'
import { vmmsOf } from './vmm.ts'

export interface Footprint {
  /** How many of the server's descriptors lead to what: `socket`, `anon_inode:[eventpoll]`, a file, … */
  readonly descriptors: Readonly<Record<string, number>>
  readonly threads: number
  /** Pids. */
  readonly machines: readonly number[]
  /** Of the data directory, relative. */
  readonly files: readonly string[]
}

type Measured = Pick<TestServer, 'pid' | 'dataDirectory'>

export function footprintOf(server: Measured): Footprint {
  const descriptors: Record<string, number> = {}
  const connections = connectionsOf(server.pid)
  for (const name of readdirSync(`/proc/${server.pid}/fd`)) {
    const target = targetOf(`/proc/${server.pid}/fd/${name}`)
    // A connection that both ends hold open is its client's to close: keep-alive.
    const kind = connections.get(target) ?? withoutNumber(target)
    if (kind !== '' && kind !== 'open connection') descriptors[kind] = (descriptors[kind] ?? 0) + 1
  }
  return {
    descriptors: Object.fromEntries(Object.entries(descriptors).toSorted(([one], [other]) => one.localeCompare(other))),
    threads: readdirSync(`/proc/${server.pid}/task`).length,
    machines: vmmsOf(server),
    files: readdirSync(server.dataDirectory, { recursive: true, encoding: 'utf8' }).toSorted(),
  }
}

/** Resident memory in bytes. */
export function residentBytes({ pid }: Pick<Measured, 'pid'>): number {
  const [, pages = ''] = readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')
  return Number(pages) * 4096
}

/** Waits until the server holds what it did, and returns what differs after the time is up: connections take a few seconds to close when idle. */
export async function grownSince(server: Measured, before: Footprint, limitMs = 20_000): Promise<readonly string[]> {
  const deadline = performance.now() + limitMs
  for (;;) {
    const grown = difference(before, footprintOf(server))
    if (grown.length === 0 || performance.now() > deadline) return grown
    await delay(50)
  }
}

function difference(before: Footprint, after: Footprint): string[] {
  const kinds = new Set([...Object.keys(before.descriptors), ...Object.keys(after.descriptors)])
  const known = new Set(before.files)
  return [
    ...[...kinds].flatMap((kind) => {
      const [had, has] = [before.descriptors[kind] ?? 0, after.descriptors[kind] ?? 0]
      return has > had ? [`${has} descriptors of ${kind} instead of ${had}`] : []
    }),
    ...(after.threads > before.threads ? [`${after.threads} threads instead of ${before.threads}`] : []),
    ...after.machines.filter((pid) => !before.machines.includes(pid)).map((pid) => `a machine with pid ${pid}`),
    ...after.files.filter((file) => !known.has(file)).map((file) => `the file ${file}`),
  ]
}

function targetOf(link: string): string {
  try {
    return readlinkSync(link)
  } catch {
    return '' // closed meanwhile
  }
}

/** Pipes and sockets are told apart by a number that says nothing. */
function withoutNumber(target: string): string {
  return target.replace(/:\[\d+\]$/, '')
}

/** TCP sockets by what `/proc/<pid>/fd` calls them. proc(5): the fourth field is the state (1: both ends are there), the tenth the inode. */
function connectionsOf(pid: number): ReadonlyMap<string, string> {
  const lines = ['tcp', 'tcp6'].flatMap((file) => readFileSync(`/proc/${pid}/net/${file}`, 'utf8').trim().split('\n').slice(1))
  return new Map(
    lines.map((line) => {
      const fields = line.trim().split(/\s+/)
      return [`socket:[${fields[9] ?? ''}]`, fields[3] === '01' ? 'open connection' : `TCP socket in state ${fields[3] ?? ''}`] as const
    }),
  )
}
