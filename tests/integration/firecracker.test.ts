// What is special to machines on Firecracker: their program's output comes over connections that snapshots, standbys and ends of the server cut off. All else is in hypervisors.test.ts.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { isMissing } from '../../src/files/tree.ts'
import { startHypervisor, hypervisorsUnderTest } from '../support/hypervisors.ts'
import { runMachine, shell, untilRunning } from '../support/machine.ts'
import type { TestServer } from '../support/server.ts'
import { until } from '../support/until.ts'
import { countVm } from '../support/vm-count.ts'
import { vmmOf } from '../support/vmm.ts'

const [under] = hypervisorsUnderTest('firecracker')
assert.ok(under)

const counting = 'i=0; while :; do i=$((i+1)); echo "tick $i"; echo $i > /run/ticks; sleep 0.5; done'

/** Nothing before the first output is there. */
function logOf(server: TestServer, instance: string): Promise<string> {
  return readFile(path.join(server.dataDirectory, 'instances', instance, 'logs', 'app.log'), 'utf8').catch((error: unknown) => {
    if (isMissing(error)) return ''
    throw error
  })
}

/** Waits until the log has what the program has written by now; every number is in it once, from the first that is there. */
async function assertLogGoesOn(server: TestServer, instance: string): Promise<void> {
  // One that it counts from now on: what a fork had counted before may be in the log of its source.
  const counted = 'from=$(cat /run/ticks); until [ "$(cat /run/ticks)" -gt "$from" ]; do sleep 0.1; done; cat /run/ticks'
  const ticks = Number(await shell(server, instance, counted))
  await until(`the log has tick ${ticks}`, async () => (await logOf(server, instance)).includes(`tick ${ticks}\n`))
  const numbers = [...(await logOf(server, instance)).matchAll(/^tick (\d+)$/gm)].map(([, number]) => Number(number))
  assert.deepEqual(
    numbers,
    numbers.map((_number, index) => (numbers[0] ?? 0) + index),
  )
}

const name = 'its log has each line once, across standby, snapshots of it and a server that was killed'
test(name, { skip: under.skip ?? false }, async () => {
  await using started = await startHypervisor(under)
  const { server, body } = started
  const id = await runMachine(server, { ...body, name: 'counter', hypervisor: 'firecracker', cmd: ['/bin/sh', '-c', counting] })
  await shell(server, id, 'until [ -s /run/ticks ]; do sleep 0.1; done')
  await assertLogGoesOn(server, id)
  await server.client.instances.standby(id)
  await server.client.instances.restore(id)
  countVm('restore')
  await assertLogGoesOn(server, id)
  const vmm = vmmOf(server, id)
  const snapshot = await server.client.instances.snapshots.create(id, { kind: 'Standby' })
  await assertLogGoesOn(server, id)
  await server.crash()
  await server.restart()
  await untilRunning(server, id)
  assert.equal(vmmOf(server, id), vmm)
  await assertLogGoesOn(server, id)

  const fork = await server.client.snapshots.fork(snapshot.id, { name: 'fork' })
  countVm('fork')
  await assertLogGoesOn(server, fork.id)
  assert.equal((await logOf(server, fork.id)).includes('tick 1\n'), false, 'what was in the log of its source is not in its own')
})
