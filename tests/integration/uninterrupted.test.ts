// Snapshots that nobody in or around the guest notices: its connections and programs go on, whichever way its memory is saved, and no fork starts anew.

import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { openEchoStream, echoService } from '../support/echo-stream.ts'
import { runMachine, shell } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { vmmsOf } from '../support/vmm.ts'
import { countVm } from '../support/vm-count.ts'

const server = await startServer()
const { client } = server
after(() => server[Symbol.asyncDispose]())

const SNAPSHOTS = 20
/** So many snapshots, one of them is forked. */
const FORKED = 5
/** Counts in memory and, line by line, on disk; what a reset guest would not have is the counter. */
const counting =
  '(i=0; while :; do i=$((i+1)); echo $i >> /root/log; echo $i > /run/next; mv /run/next /run/counter; sleep 0.05; done) >/dev/null 2>&1 &'
const network = { enabled: true, ports: [{ guest_port: 7, host_port: 0 }] }

test('a connection and a counter go through twenty snapshots of a machine that booted, and every fork goes on from there', async () => {
  const id = await runMachine(server, { name: 'booted', network })
  await shell(server, id, `${echoService}; ${counting}`)
  await goOn(id)
})

test('the same of a machine that was restored', async () => {
  await client.instances.standby('booted')
  await client.instances.restore('booted')
  countVm('restore')
  await goOn((await client.instances.get('booted')).id)
})

async function goOn(id: string): Promise<void> {
  const { network: published } = await client.instances.get(id)
  const port = (published as { readonly ports?: readonly { readonly host_port: number }[] } | undefined)?.ports?.[0]?.host_port
  assert.ok(port !== undefined)
  const vmms = vmmsOf(server)
  using stream = await openEchoStream(port)
  await stream.more(1)
  for (let count = 0; count < SNAPSHOTS; count += 1) {
    const before = await counterOf(id)
    const snapshot = await client.instances.snapshots.create(id, { kind: 'Standby' })
    await stream.more(3)
    assert.deepEqual(vmmsOf(server), vmms, 'in the same process')
    if (count % FORKED === 0) await forkGoesOn(snapshot.id, before)
    await client.snapshots.delete(snapshot.id)
  }
  const last = await counterOf(id)
  await shell(server, id, `until [ "$(cat /run/counter)" -gt ${last} ]; do sleep 0.05; done`)
}

async function forkGoesOn(snapshotId: string, before: number): Promise<void> {
  const fork = await client.snapshots.fork(snapshotId, { name: 'fork' })
  countVm('fork')
  const [counter, lines, later] = (
    await shell(
      server,
      fork.id,
      'c=$(cat /run/counter); echo $c; tail -n 1 /root/log; until [ "$(cat /run/counter)" -gt $((c+2)) ]; do sleep 0.05; done; cat /run/counter',
    )
  )
    .split('\n')
    .map(Number)
  assert.ok(counter !== undefined && counter >= before, `the fork counts ${counter}, its source had ${before} before the snapshot`)
  assert.ok(lines !== undefined && lines >= counter, `${lines} lines are on disk, ${counter} were counted`)
  assert.ok(later !== undefined && later > counter)
  await client.instances.delete(fork.id)
}

async function counterOf(id: string): Promise<number> {
  return Number(await shell(server, id, 'cat /run/counter'))
}
