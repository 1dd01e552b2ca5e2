// A number of requests out of the description of a server's own API, asked one after the other, and a judgement of every answer.

import { Hypeman } from '@onkernel/hypeman'
import fc from 'fast-check'
import { describedOperations } from '../wire/described.ts'
import { createJudge } from './judge.ts'
import { requestsFor, type FuzzRequest } from './requests.ts'
import { send } from './send.ts'

export interface FuzzTarget {
  readonly url: string
  readonly token: string
}

export interface Finding {
  readonly request: string
  readonly answer: string
  readonly complaints: readonly string[]
}

export interface FuzzReport {
  readonly seed: number
  readonly requests: number
  /** How many answers had each status; `none`: how many requests had no answer. */
  readonly statuses: Readonly<Record<string, number>>
  /** Operations that were answered with success at least once. */
  readonly succeeded: ReadonlySet<string>
  readonly findings: readonly Finding[]
}

export interface FuzzOptions {
  readonly requests: number
  readonly seed: number
}

export async function fuzz(target: FuzzTarget, { requests, seed }: FuzzOptions): Promise<FuzzReport> {
  const client = new Hypeman({ baseURL: target.url, apiKey: target.token, maxRetries: 0 })
  const operations = describedOperations(await (await fetch(`${target.url}/openapi.json`)).json())
  const judge = createJudge()
  const statuses: Record<string, number> = {}
  const succeeded = new Set<string>()
  const findings: Finding[] = []
  const live = await liveThings(client)
  for (const asked of fc.sample(requestsFor(operations), { numRuns: requests, seed })) {
    const path = asked.target.replaceAll('{live}', live.next(asked.operation.path))
    const finding = await ask(target, asked, path)
    if (finding.complaints.length > 0) findings.push(finding)
    live.learn(asked.operation.path, finding.text)
  }
  return { seed, requests, statuses, succeeded, findings }

  async function ask(to: FuzzTarget, asked: FuzzRequest, path: string): Promise<Finding & { readonly text: string }> {
    const request = `${asked.method} ${path.slice(0, 300)} ${JSON.stringify(asked.headers)} ${asked.body?.toString('utf8').slice(0, 500) ?? ''}`
    try {
      const answer = await send(to.url, to.token, asked, path)
      statuses[answer.status] = (statuses[answer.status] ?? 0) + 1
      if (answer.status < 300) succeeded.add(asked.operation.operationId)
      const text = answer.text ?? ''
      return { request, answer: `${answer.status} ${text.slice(0, 300)}`, complaints: judge(asked, answer), text }
    } catch (error) {
      statuses['none'] = (statuses['none'] ?? 0) + 1
      return { request, answer: 'none', complaints: [String(error)], text: '' }
    }
  }
}

interface LiveThings {
  /** An id of something of the kind that a path is about. */
  next(path: string): string
  /** Takes the id out of an answer that made something. */
  learn(path: string, text: string): void
}

/** Most ids that are remembered; older ones go, and with them what is deleted by now. */
const MOST_LIVE = 5

async function liveThings(client: Hypeman): Promise<LiveThings> {
  const ids: Record<string, string[]> = { instances: (await client.instances.list()).map(({ id }) => id), snapshots: [] }
  let turn = 0
  return {
    next(path) {
      const kind = path.includes('{snapshotId}') ? 'snapshots' : (path.split('/')[1] ?? '')
      const known = ids[kind] ?? []
      return known[(turn += 1) % Math.max(1, known.length)] ?? 'fuzz-1'
    },
    learn(path, text) {
      const kind = path.endsWith('/snapshots') ? 'snapshots' : path.endsWith('/fork') ? 'instances' : (path.split('/')[1] ?? '')
      const [, id] = /^\{"id":"([a-z0-9]{24})"/.exec(text) ?? []
      if (id === undefined) return
      const known = (ids[kind] ??= [])
      if (known.includes(id)) return
      known.push(id)
      if (known.length > MOST_LIVE) known.shift()
    },
  }
}

/** How many answers had a status that begins with that digit. */
export function answersOf({ statuses }: FuzzReport, digit: 2 | 4): number {
  return Object.entries(statuses).reduce((sum, [status, count]) => (status.startsWith(String(digit)) ? sum + count : sum), 0)
}

/** A few lines for people. */
export function summary({ seed, requests, statuses, succeeded, findings }: FuzzReport): string {
  const counts = Object.entries(statuses)
    .toSorted(([a], [b]) => a.localeCompare(b))
    .map(([status, count]) => `${count} × ${status}`)
  return [
    ...findings.slice(0, 20).map(({ request, answer, complaints }) => `${request}\n  → ${answer}\n  ✖ ${complaints.join('; ')}`),
    `requests: ${requests}, seed: ${seed}, operations that succeeded: ${succeeded.size}`,
    `answers: ${counts.join(', ')}`,
    `findings: ${findings.length}`,
  ].join('\n')
}
