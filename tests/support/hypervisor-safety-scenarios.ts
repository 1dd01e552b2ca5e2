// What every hypervisor's forks have to be before their programs go on: themselves.

import assert from 'node:assert/strict'
import type { HypervisorWorld } from './hypervisor-scenarios.ts'
import { eventsOf } from './instance-events.ts'
import { shell } from './machine.ts'
import { promptOf } from './typed.ts'
import { countVm } from './vm-count.ts'

/** A program that says all the time who it is, and a hook that notes how often it has. */
const prepare = `
  mkdir -p /etc/hypeman/fork.d
  printf '#!/bin/sh\\nwc -l < /run/said > /run/said-at-hook\\n' > /etc/hypeman/fork.d/10-note
  chmod +x /etc/hypeman/fork.d/10-note
  (while :; do read -r now < /run/hypeman/generation; echo "$now"; sleep 0.02; done) > /run/said 2>/dev/null </dev/null &
  echo $! > /run/said.pid`

const steps = ['entropy', 'clock', 'machine-id', 'boot-id', 'hostname', 'connections', 'generation', 'hooks', 'thaw']

export async function safeForks({ server, hypervisor, machine }: HypervisorWorld): Promise<void> {
  await shell(server, machine, prepare)
  const { id: snapshot } = await server.client.instances.snapshots.create(machine, { kind: 'Standby', name: 'to-check' })
  const { id } = await server.client.snapshots.fork(snapshot, { name: `${hypervisor}-safe` })
  countVm('fork')
  const done = (await eventsOf(server, id)).flatMap(({ flow, step }) => (flow === 'guest.fork' && step !== undefined ? [step] : []))
  assert.deepEqual(
    done.filter((step) => steps.includes(step)),
    steps,
  )
  // Between the saving of the memory and the hook the program has said nothing, but for the line that it was about to say.
  await shell(server, id, `until [ "$(tail -n 1 /run/said | grep -c '${id}')" = 1 ]; do sleep 0.1; done`)
  const stale = Number(await shell(server, id, `tail -n +$(($(cat /run/said-at-hook) + 1)) /run/said | grep -vc '${id}' || true`))
  assert.ok(stale <= 1, `${stale} lines of a program that did not know yet who it is`)
  await server.client.instances.delete(id)
  const { code, stdout, stderr } = await promptOf(server).line(`hypeman fork-check ${snapshot} --count 2 --parallel 2`)
  countVm('2 forks')
  assert.equal(code, 0, `${stdout}${stderr}`)
  assert.match(stdout, /\n2 forks, 0 collisions\n$/)
  await shell(server, machine, 'kill $(cat /run/said.pid); rm -r /etc/hypeman /run/said*')
  await server.client.snapshots.delete(snapshot)
}
