// What an end that nobody asked for leaves in the record, and what a stop makes of it. The VMM is the test's.

import assert from 'node:assert/strict'
import { mkdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { stateOnly, testContext, type TestContext } from '../../tests/support/instance-context.ts'
import { until } from '../../tests/support/until.ts'
import { isHypemanError } from '../api/errors.ts'
import { instanceEvent } from '../api/events.ts'
import type { Machine } from '../hypervisors/driver.ts'
import type { InstanceEntry } from './entry.ts'
import { attach } from './machine.ts'
import type { InstanceRecord } from './record.ts'
import { noRestarts } from './restart-policy.ts'
import { createInstanceService } from './service.ts'
import { readInstanceRecord } from './store.ts'

const policy = { policy: 'on_failure', backoffMs: 60_000, maxAttempts: 1, stableAfterMs: 600_000 } as const

/** A Running instance, and what ends its VMM after its console has said so. */
async function running(
  world: TestContext,
  change: Partial<InstanceRecord> = {},
): Promise<{ readonly entry: InstanceEntry; readonly end: (said?: string) => Promise<void> }> {
  const since = new Date().toISOString()
  const ready = { programStartedAt: since, agentReadyAt: since, runningSince: since, process: { pid: 1, startTicks: '0', bootId: '' } }
  const entry = await world.add({ restartPolicy: policy, ...ready, ...change })
  const exited = Promise.withResolvers<{ code: number | null; reason: string }>()
  const machine: Machine = { ...stateOnly('running'), exited: exited.promise as Machine['exited'] }
  attach(world.context, entry, machine)
  return {
    entry,
    async end(said = '{"exit_code":1}') {
      const logs = path.join(world.context.layout.instance(entry.id), 'logs')
      await mkdir(logs, { recursive: true })
      await writeFile(path.join(logs, 'console.log'), `HYPEMAN-BOOT t\nHYPEMAN-EXIT ${said}\n`)
      exited.resolve({ code: 0, reason: 'the VMM ended' })
    },
  }
}

test('an end that calls for a restart is on record together with its plan, and told', async () => {
  await using world = await testContext()
  const { entry, end } = await running(world)
  const told: string[] = []
  using _subscription = world.context.events.subscribe((_id, event) => {
    if (event.type === 'restart') told.push(instanceEvent.parse(event).type, event.message)
  })
  await end()
  await until('its end is on record', () => entry.record.process === null)
  const record = await readInstanceRecord(world.context.layout.instance(entry.id))
  assert.deepEqual([record.exit?.code, record.runningSince], [1, null])
  const delay = Date.parse(record.restarts.nextAttemptAt ?? '') - Date.parse(record.stoppedAt ?? '')
  assert.ok(Math.abs(delay - policy.backoffMs) < 1_000, `${delay} ms after its end`)
  assert.deepEqual(told, ['restart', `attempt 1 of 1 to start it again is at ${record.restarts.nextAttemptAt}`])
})

test('an end in peace, and one of an instance without a policy, plan nothing', async () => {
  await using world = await testContext()
  const [peaceful, unattended] = [await running(world), await running(world, { restartPolicy: null })]
  await peaceful.end('{"exit_code":0}')
  await unattended.end()
  for (const { entry } of [peaceful, unattended]) {
    await until('its end is on record', () => entry.record.process === null)
    assert.deepEqual(entry.record.restarts, noRestarts)
  }
})

test('an instance that is in standby when its VMM is gone is left there', async () => {
  await using world = await testContext()
  const { entry, end } = await running(world)
  entry.holdsMemory = true
  await end()
  await until('its end is on record', () => entry.record.process === null)
  assert.equal(entry.record.restarts.nextAttemptAt, null)
})

test('a stop that comes before the end is on record keeps it from being undone', async () => {
  await using world = await testContext()
  const { entry, end } = await running(world)
  const held = await world.context.locks.acquire(entry.id, { waitMs: 1_000, what: 'the instance' })
  const stopping = createInstanceService(world.context, () => undefined).stop(entry.id)
  await end()
  await until('the end is seen', () => entry.settling)
  held[Symbol.dispose]()
  const view = await stopping
  assert.deepEqual([view.state, view.exit_code, view.restart_status?.blocked_reason], ['Stopped', 1, 'manual_stop'])
  await until('the end is settled', () => !entry.settling)
  assert.equal(entry.record.restarts.nextAttemptAt, null)
})

test('a stop of what rests for good is refused as ever', async () => {
  await using world = await testContext()
  const entry = await world.add({ restartPolicy: policy, restarts: { ...noRestarts, attempts: 1, blockedReason: 'max_attempts_exceeded' } })
  await assert.rejects(createInstanceService(world.context, () => undefined).stop(entry.id), (error) =>
    isHypemanError(error, 'invalid_state'),
  )
})

test('an update changes policy and check, and what it does not name stays', async () => {
  await using world = await testContext()
  const service = createInstanceService(world.context, () => undefined)
  const entry = await world.add({ expiresAt: '2999-01-01T00:00:00.000Z' })
  const update = (body: object) => service.update(entry.id, body, 'tests')
  const defaults = { backoff: '5s', max_attempts: 0, stable_after: '10m' } as const
  await update({ restart_policy: { policy: 'always', ...defaults } })
  const check = { interval: '10s', timeout: '2s', start_period: '30s', failure_threshold: 3, success_threshold: 1 }
  const view = await update({ health_check: { tcp: { port: 80 }, ...check } })
  assert.equal(view.restart_policy?.policy, 'always')
  assert.deepEqual([view.health_check?.tcp, view.expires_at], [{ port: 80 }, '2999-01-01T00:00:00.000Z'])
  assert.equal((await update({ restart_policy: { policy: 'never', ...defaults } })).restart_policy, undefined)
  await assert.rejects(update({}), (error) => isHypemanError(error, 'invalid_request'))
  const lonely = await world.add({ network: null })
  await assert.rejects(service.update(lonely.id, { health_check: { tcp: { port: 80 }, ...check } }, 'tests'), (error) =>
    isHypemanError(error, 'invalid_health_check'),
  )
})
