// One run of the model: clients at random and at once, then a quiet look at all that is left, then everything goes. What the history says is judged at
// the end, and what the server still holds is compared with the beginning.

import { writeFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { footprintOf, grownSince } from '../footprint.ts'
import type { TestServer } from '../server.ts'
import { check } from './check.ts'
import type { Limits } from './choose.ts'
import { Clients, type Guests } from './clients.ts'
import type { Answer, Call } from './history.ts'

export interface ModelRun {
  readonly seed: number
  readonly clients: number
  /** Of each client. */
  readonly operations: number
  readonly guests: Guests
  readonly limits: Limits
}

export interface ModelResult {
  /** In words; none if all is well. */
  readonly faults: readonly string[]
  readonly history: readonly Call[]
  /** Of the clients' part alone, in milliseconds. */
  readonly ms: number
}

/** HYPEMAN_MODEL_SEED repeats a run, as far as clients that run at once repeat anything. */
export function seedOfRun(): number {
  const given = process.env['HYPEMAN_MODEL_SEED']
  return given === undefined ? Date.now() % 2 ** 31 : Number(given)
}

export async function runModel(server: TestServer, run: ModelRun): Promise<ModelResult> {
  await warmUp(server, run)
  const before = footprintOf(server)
  const clients = new Clients(server, run.guests, run.limits)
  const began = performance.now()
  const names = Array.from({ length: run.clients }, (_, at) => `c${at}`)
  await Promise.all(names.map((name, at) => clients.askAtRandom(name, run.seed * 1_000 + at, run.operations)))
  const ms = performance.now() - began
  await lookAtEverything(server, clients)
  await removeEverything(clients)
  const file = process.env['HYPEMAN_MODEL_HISTORY']
  if (file !== undefined) await writeFile(file, JSON.stringify(clients.history))
  const { cpu, memory } = await server.client.resources.get()
  const kept = [cpu, memory].flatMap(({ type, allocated }) => (allocated === 0 ? [] : [`${allocated} of ${type}, promised to nobody`]))
  const left = [...(await grownSince(server, before)), ...kept]
  const faults = [...check(clients.history), ...left.map((what) => `left behind: ${what}`)]
  return { faults, history: clients.history, ms }
}

/** What a server makes once and keeps (the image, a disk of that size, threads) is there before anything is counted. */
async function warmUp(server: TestServer, { guests, limits }: ModelRun): Promise<void> {
  const clients = new Clients(server, guests, limits)
  const [volume] = limits.volumes
  if (volume !== undefined) await clients.ask('warm-up', { kind: 'createVolume', volume })
  const made = await clients.ask('warm-up', { kind: 'create', name: 'warm-up', volumes: [] })
  const id = made.outcome === 'done' ? made.said.instance?.id : undefined
  if (id === undefined) throw new Error(`no instance can be made: ${clients.words()}`)
  await untilSettled(server, id)
  await clients.ask('warm-up', { kind: 'snapshot', instance: id, of: 'Standby', name: '' })
  await clients.ask('warm-up', { kind: 'standby', instance: id })
  await removeEverything(clients)
}

/** Nobody else asks any more: what is seen now must be what the answers so far amount to. */
async function lookAtEverything(server: TestServer, clients: Clients): Promise<void> {
  const ask = (operation: Call['operation']): Promise<Answer> => clients.ask('end', operation)
  for (const { id } of await server.client.instances.list()) await untilSettled(server, id)
  const listed = await ask({ kind: 'list' })
  for (const { id, state } of listed.outcome === 'done' ? (listed.said.instances ?? []) : []) {
    if (state === 'Standby') await ask({ kind: 'restore', instance: id })
    if (state === 'Stopped') {
      await ask({ kind: 'start', instance: id })
      await untilSettled(server, id)
    }
    await ask({ kind: 'read', instance: id })
    await ask({ kind: 'get', instance: id })
  }
  await ask({ kind: 'listVolumes' })
  const snapshots = await ask({ kind: 'listSnapshots' })
  for (const { id } of snapshots.outcome === 'done' ? (snapshots.said.snapshots ?? []) : []) {
    const fork = await ask({ kind: 'forkSnapshot', snapshot: id, name: 'last', target: 'Running' })
    const made = fork.outcome === 'done' ? fork.said.instance : undefined
    if (made !== undefined) await ask({ kind: 'remove', instance: made.id })
  }
}

async function removeEverything(clients: Clients): Promise<void> {
  const said = async (kind: 'list' | 'listSnapshots' | 'listVolumes') => {
    const answer = await clients.ask('end', { kind })
    return answer.outcome === 'done' ? answer.said : {}
  }
  for (const { id } of (await said('list')).instances ?? []) await clients.ask('end', { kind: 'remove', instance: id })
  for (const { id } of (await said('listSnapshots')).snapshots ?? []) await clients.ask('end', { kind: 'removeSnapshot', snapshot: id })
  for (const { id } of (await said('listVolumes')).volumes ?? []) await clients.ask('end', { kind: 'removeVolume', volume: id })
  await clients.ask('end', { kind: 'list' })
  await clients.ask('end', { kind: 'listSnapshots' })
  await clients.ask('end', { kind: 'listVolumes' })
}

/** Until a started guest is ready; the other states last. */
async function untilSettled(server: TestServer, id: string): Promise<void> {
  const deadline = performance.now() + 120_000
  for (;;) {
    const { state } = await server.client.instances.wait(id, { state: 'Running', timeout: '50s' })
    if (state !== 'Initializing') return
    if (performance.now() > deadline) throw new Error(`the instance ${id} does not get ready`)
    await delay(100)
  }
}
