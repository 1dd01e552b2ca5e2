// Flows of instances.

import assert from 'node:assert/strict'
import { createServer } from 'node:net'
import { once } from 'node:events'
import { APIConnectionError } from '@onkernel/hypeman'
import type { Instance } from '@onkernel/hypeman/resources/instances/instances.js'
import { until } from '../../support/until.ts'
import type { Scenario, Verdict } from './scenario.ts'
import { LateFailure, type State, type World } from './world.ts'

export const content = { memory: 'm', disk: 'd' } as const
export const onDisk = { memory: '', disk: 'd' } as const
export const subject = 'subject'
const fresh = 'new'

export const clean = (world: World): Promise<void> => world.remove(subject, fresh)

/** The verdict that goes with the state of an instance, whose content must be what it is in this state. */
export async function judgeState(
  world: World,
  name: string,
  verdicts: Readonly<Partial<Record<State | 'absent', readonly [Verdict, { readonly memory: string; readonly disk: string }]>>>,
): Promise<Verdict> {
  const state = await world.stateOf(name)
  const [verdict, expected] = verdicts[state as State] ?? assert.fail(`${name} is ${state}`)
  if (state !== 'absent') assert.deepEqual(await world.wake(name), expected, `what ${name} has, which was ${state}`)
  return verdict
}

const none = { memory: '', disk: '' } as const

/** A port that is free now; taken by every attempt, so that one which keeps it would make the next one fail. */
let port: Promise<number> | undefined
async function freePort(): Promise<number> {
  const listener = createServer().listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const address = listener.address()
  listener.close()
  await once(listener, 'close')
  return typeof address === 'object' && address !== null ? address.port : assert.fail('no port')
}

export const create: Scenario = {
  name: 'create an instance',
  prepare: clean,
  async act(world) {
    port ??= freePort()
    const network = { enabled: true, ports: [{ guest_port: 80, host_port: await port }] }
    await world.client.instances.create({ ...world.guests.body, name: fresh, network })
    await world.untilRunning(fresh)
  },
  judge: (world) => judgeState(world, fresh, { absent: ['as before', none], Running: ['done', none], Stopped: ['stopped', none] }),
  clean,
  late: ['stopped'],
  crashed: ['stopped'],
  vmm: ['stopped'],
}

/** On a device of the host, which a limit of bandwidth needs, and with the host's proxy as its only way out. */
const onTap = { network: { bandwidth_upload: '1Gbps', egress: { enabled: true }, ports: [{ guest_port: 80 }] } } as object

export const createOnTap: Scenario = {
  ...create,
  name: 'create an instance on a device of the host',
  async act(world) {
    await world.client.instances.create({ ...world.guests.body, name: fresh, ...onTap })
    await world.untilRunning(fresh)
  },
}

export const start: Scenario = {
  name: 'start a stopped instance',
  prepare: (world) => world.ensure(subject, 'Stopped', content),
  async act(world) {
    await world.client.instances.start(subject, { cmd: ['/bin/sleep', '1000'] })
    await world.untilRunning(subject)
  },
  judge: (world) => judgeState(world, subject, { Running: ['done', onDisk], Stopped: ['as before', onDisk] }),
  clean,
}

export const stop: Scenario = {
  name: 'stop a running instance',
  prepare: (world) => world.ensure(subject, 'Running', content),
  act: async (world) => void (await world.client.instances.stop(subject)),
  judge: (world) => judgeState(world, subject, { Running: ['as before', content], Stopped: ['done', onDisk] }),
  clean,
  // Its program has been asked to end by then.
  refused: ['done'],
}

export const stopAsleep: Scenario = {
  name: 'stop an instance in standby',
  prepare: (world) => world.ensure(subject, 'Standby', content),
  act: async (world) => void (await world.client.instances.stop(subject)),
  judge: (world) => judgeState(world, subject, { Standby: ['as before', content], Stopped: ['done', onDisk] }),
  clean,
  refused: ['done'],
}

export const standby: Scenario = {
  name: 'put an instance into standby',
  prepare: (world) => world.ensure(subject, 'Running', content),
  act: async (world) => void (await world.client.instances.standby(subject)),
  async judge(world) {
    const isPaused = (await world.stateOf(subject)) === 'Paused'
    if (isPaused) await world.client.instances.standby(subject)
    const verdict = await judgeState(world, subject, {
      Running: ['as before', content],
      Standby: ['done', content],
      Stopped: ['stopped', onDisk],
    })
    return isPaused ? 'paused' : verdict
  },
  clean,
  refused: ['done'],
  broken: ['paused'],
  vmm: ['stopped'],
}

export const restore: Scenario = {
  name: 'wake an instance from standby',
  prepare: (world) => world.ensure(subject, 'Standby', content),
  act: async (world) => void (await world.client.instances.restore(subject)),
  judge: (world) => judgeState(world, subject, { Standby: ['as before', content], Running: ['done', content] }),
  clean,
}

export const restoreOnTap: Scenario = {
  ...restore,
  name: 'wake an instance on a device of the host from standby',
  async prepare(world) {
    const { network } = (await world.stateOf(subject)) === 'absent' ? {} : await world.client.instances.get(subject)
    if (network?.bandwidth_upload === undefined) await world.remove(subject)
    await world.ensure(subject, 'Standby', content, onTap)
  },
}

const compression = { enabled: true } as const

/** What the official client's types do not have, its answers do. */
async function compressionOf(world: World): Promise<string | undefined> {
  const seen: Instance & { readonly standby_compression?: { readonly state: string } } = await world.client.instances.get(subject)
  return seen.standby_compression?.state
}

/** Waits while it is being compressed. */
async function untilCompressed(world: World): Promise<string | undefined> {
  await until('its memory is compressed, or can not be', async () => (await compressionOf(world)) !== 'compressing')
  return compressionOf(world)
}

/** Brings the subject to standby, where its memory lies there compressed. */
async function ensureCompressed(world: World): Promise<void> {
  if ((await world.stateOf(subject)) === 'Standby' && (await untilCompressed(world)) === 'compressed') return
  await world.ensure(subject, 'Running', content)
  await world.client.instances.standby(subject, { compression })
  assert.equal(await untilCompressed(world), 'compressed')
}

export const compressStandby: Scenario = {
  ...standby,
  name: 'put an instance into standby and compress its memory',
  async act(world) {
    await world.client.instances.standby(subject, { compression })
    if ((await untilCompressed(world)) !== 'compressed') throw new LateFailure('it is not compressed')
  },
  async judge(world) {
    const hasFailed = (await world.stateOf(subject)) === 'Standby' && (await untilCompressed(world)) === 'error'
    const verdict = await standby.judge(world)
    return verdict === 'done' && hasFailed ? 'failed' : verdict
  },
  late: ['failed', 'done'],
}

export const restoreCompressed: Scenario = { ...restore, name: 'wake an instance from compressed standby', prepare: ensureCompressed }

export const stopCompressed: Scenario = { ...stopAsleep, name: 'stop an instance in compressed standby', prepare: ensureCompressed }

export const forkRunning: Scenario = {
  name: 'fork a running instance',
  async prepare(world) {
    await world.remove(fresh)
    await world.ensure(subject, 'Running', content)
  },
  act: async (world) => void (await world.client.instances.fork(subject, { name: fresh, from_running: true })),
  async judge(world) {
    const source = await judgeState(world, subject, { Running: ['as before', content], Stopped: ['stopped', onDisk] })
    const fork = await judgeState(world, fresh, { absent: ['as before', none], Running: ['done', content], Standby: ['asleep', content] })
    return source === 'stopped' ? (fork === 'as before' ? 'stopped' : 'done, source stopped') : fork
  },
  clean,
  crashed: ['asleep'],
  vmm: ['stopped', 'done, source stopped'],
}

export const forkStopped: Scenario = {
  name: 'fork a stopped instance',
  async prepare(world) {
    await world.remove(fresh)
    if ((await world.stateOf(subject)) !== 'Stopped') await world.ensure(subject, 'Stopped', content)
  },
  act: async (world) => void (await world.client.instances.fork(subject, { name: fresh })),
  async judge(world) {
    await judgeState(world, subject, { Stopped: ['as before', onDisk] })
    return await judgeState(world, fresh, { absent: ['as before', none], Stopped: ['done', onDisk] })
  },
  clean,
  frozen: [subject],
}

export const forkAsleep: Scenario = {
  name: 'fork an instance in standby',
  async prepare(world) {
    await world.remove(fresh)
    await world.ensure(subject, 'Standby', content)
  },
  act: async (world) => void (await world.client.instances.fork(subject, { name: fresh })),
  async judge(world) {
    await judgeState(world, subject, { Standby: ['as before', content] })
    return await judgeState(world, fresh, { absent: ['as before', none], Standby: ['done', content] })
  },
  clean,
  frozen: [subject],
}

export const forkCompressed: Scenario = {
  ...forkAsleep,
  name: 'fork an instance in compressed standby',
  async prepare(world) {
    await world.remove(fresh)
    await ensureCompressed(world)
  },
  // Its memory is brought back before it is shared.
  frozen: [],
}

function deletion(name: string, state: State, graceful: boolean): Scenario {
  return {
    name,
    prepare: (world) => world.ensure(subject, state, content),
    act: (world) => world.client.instances.delete(subject, { graceful_shutdown: graceful }),
    judge: (world) =>
      judgeState(world, subject, {
        absent: ['done', none],
        [state]: ['as before', state === 'Stopped' ? onDisk : content],
        ...(state === 'Running' ? { Stopped: ['stopped', onDisk] as const } : {}),
      }),
    clean,
    refused: ['done', 'stopped'],
    crashed: ['stopped'],
    vmm: ['stopped'],
  }
}

export const remove = deletion('delete a running instance', 'Running', true)
export const removeAsleep = deletion('delete an instance in standby', 'Standby', false)

/** What became of the one attempt to start it again that its policy allows: undefined while that is open. */
async function restarted(world: World): Promise<'done' | 'given up' | undefined> {
  const { state, restart_status: status } = await world.client.instances.get(subject)
  if (status?.blocked_reason === 'max_attempts_exceeded') return 'given up'
  return state === 'Running' && typeof status?.last_attempt_at === 'string' ? 'done' : undefined
}

export const restart: Scenario = {
  name: 'start an instance again by itself',
  async prepare(world) {
    await world.remove(subject)
    await world.ensure(subject, 'Running', content)
    await world.client.instances.update(subject, { restart_policy: { policy: 'on_failure', backoff: '0s', max_attempts: 1 } })
  },
  async act(world) {
    await world.guests.fail(world.server, subject)
    // On a disk that stays broken nothing comes of it until that is over.
    const reason = await until('it is started again or given up', async () => (await restarted(world)) !== undefined, 10_000).then(
      () => undefined,
      (error: unknown) => (error instanceof APIConnectionError ? Promise.reject(error) : String(error)),
    )
    if (reason !== undefined || (await restarted(world)) === 'given up') throw new LateFailure(reason ?? 'it was given up')
  },
  async judge(world) {
    await until('it is started again or given up', async () => (await restarted(world)) !== undefined)
    return await judgeState(world, subject, { Running: ['done', onDisk], Stopped: ['stopped', onDisk] })
  },
  clean,
  late: ['stopped', 'done'],
  crashed: ['stopped'],
  vmm: ['stopped'],
}

export const update: Scenario = {
  name: 'change when an instance expires',
  async prepare(world) {
    await world.remove(subject)
    await world.ensure(subject, 'Stopped', content)
  },
  act: async (world) => void (await world.client.instances.update(subject, { ttl: '10h' })),
  async judge(world) {
    const { expires_at: expires } = await world.client.instances.get(subject)
    await judgeState(world, subject, { Stopped: ['as before', onDisk] })
    return expires === null ? 'as before' : 'done'
  },
  clean,
}
