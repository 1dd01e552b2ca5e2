// No program of a fork runs with what it has of its source before the guest knows who it is: looked at from inside of real guests. One machine is booted for most of it.

import assert from 'node:assert/strict'
import { test, after } from 'node:test'
import { eventsOf, type SeenEvent } from '../support/instance-events.ts'
import { runMachine, shell, small, untilRunning } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { countVm } from '../support/vm-count.ts'

const server = await startServer()
const { client } = server
after(() => server[Symbol.asyncDispose]())

const stepsOf = async (id: string, flow: string): Promise<SeenEvent[]> =>
  (await eventsOf(server, id)).filter((event) => event.type === 'step' && event.flow === flow)

async function noteOf(id: string, flow: string, name: string): Promise<string> {
  const found = (await stepsOf(id, flow)).find(({ step }) => step === name) ?? assert.fail(`${flow} has no step ${name}`)
  return found.note ?? ''
}

/** How far each program has come is the size of a file that it does nothing but add to. */
const beat = (name: string, restSeconds = 0.02): string => `while :; do echo >>/run/${name}; sleep ${restSeconds}; done`
const beats = ['program', 'exec', 'stray', 'container'] as const
const sizes = `stat -c %s ${beats.map((name) => `/run/${name}`).join(' ')} | tr '\\n' ' '`
const hook = (directory: string, name: string, script: string): string =>
  `mkdir -p /etc/hypeman/${directory}; cat >/etc/hypeman/${directory}/${name} <<'HOOK'\n#!/bin/sh\n${script}\nHOOK\nchmod +x /etc/hypeman/${directory}/${name}\n`

test('nothing of a fork runs until its identity is complete, wherever its programs are, and all of its source goes on', async () => {
  const origin = await runMachine(server, { name: 'origin', cmd: ['/bin/sh', '-c', beat('program')] })
  await shell(
    server,
    origin,
    `(${beat('exec')}) >/dev/null 2>&1 &
     (echo 0 >/sys/fs/cgroup/cgroup.procs; ${beat('stray')}) >/dev/null 2>&1 &
     mkdir -p /sys/fs/cgroup/containers/one
     (echo 0 >/sys/fs/cgroup/containers/one/cgroup.procs; ${beat('container')}) >/dev/null 2>&1 &
     nc -w 1 10.0.2.2 9 </dev/null >/dev/null 2>&1; grep -c 10.0.2.2 /proc/net/arp >/run/neighbours
     mkdir -p /etc/ssh; echo inherited >/etc/ssh/ssh_host_ed25519_key
     printf '#!/bin/sh\\ncat /proc/sys/kernel/random/uuid >"$7"; echo public >"$7.pub"\\n' >/bin/ssh-keygen; chmod +x /bin/ssh-keygen
     ${hook('fork.d', '10-look', `${sizes}; sleep 0.3; ${sizes}; grep -c 10.0.2.2 /proc/net/arp || true`)}
     ${hook('restore.d', '10-look', 'echo restored $HYPEMAN_GENERATION')}
     until test -s /run/stray && test -s /run/container; do sleep 0.1; done
     date -s @1000 >/dev/null`,
  )
  assert.equal(await shell(server, origin, 'cat /run/neighbours'), '1')
  const snapshot = await client.instances.snapshots.create(origin, { kind: 'Standby' })
  const [before, later] = [await shell(server, origin, sizes), await shell(server, origin, `sleep 0.3; ${sizes}`)]
  for (const [index, size] of later.split(' ').entries())
    assert.ok(Number(size) > Number(before.split(' ')[index]), `${beats[index]} of the source stands still: ${before}, ${later}`)

  const looks: string[] = []
  const keys: string[] = []
  for (const name of ['first', 'second', 'third']) {
    const { id } = await client.snapshots.fork(snapshot.id, { name })
    countVm(name)
    looks.push(await noteOf(id, 'guest.fork', 'hooks'))
    const [now, next] = [await shell(server, id, sizes), await shell(server, id, `sleep 0.3; ${sizes}`)]
    for (const [index, size] of next.split(' ').entries())
      assert.ok(Number(size) > Number(now.split(' ')[index]), `${beats[index]} of a fork stands still: ${now}, ${next}`)
    const generation = JSON.parse(await shell(server, id, 'cat /run/hypeman/generation')) as Record<string, string>
    assert.deepEqual([generation['instance_id'], generation['reason']], [id, 'fork'])
    // The source's clock was set to 1970.
    assert.ok(Number(generation['time_jump_ns']) / 1e9 > Date.now() / 1e3 - 3_600, JSON.stringify(generation))
    assert.ok(Math.abs(Number(await shell(server, id, 'date +%s')) - Date.now() / 1e3) < 2)
    keys.push(await shell(server, id, 'cat /etc/ssh/ssh_host_ed25519_key'))
    if (name !== 'first') await client.instances.delete(id)
  }
  // Each fork began as far as the others, and nothing had moved when its hooks ended; its neighbours were forgotten.
  const [one, ...others] = looks
  assert.match(one ?? '', /^10-look: (\d+ \d+ \d+ \d+) *\1 *0$/)
  assert.deepEqual(others, [one, one])
  assert.equal(new Set(keys).size, 3)
  assert.ok(!keys.includes('inherited'))

  const { id } = await client.instances.get('first')
  await client.instances.standby(id)
  await client.instances.restore(id)
  assert.match(await noteOf(id, 'guest.restore', 'hooks'), /^10-look: restored \d+$/)
  assert.deepEqual(
    (await stepsOf(id, 'guest.restore')).map(({ step }) => step).filter((step) => step !== 'clock-check'),
    ['entropy', 'clock', 'neighbours', 'connections', 'generation', 'hooks', 'thaw'],
  )
  const [now, next] = [await shell(server, id, sizes), await shell(server, id, `sleep 0.3; ${sizes}`)]
  assert.notEqual(now, next)
  assert.equal(await shell(server, id, 'cat /etc/ssh/ssh_host_ed25519_key'), keys[0])

  // What a fork needs to write lies in memory; keys that can't be replaced are a failure.
  await shell(server, id, 'mount -o remount,ro /')
  await assert.rejects(client.instances.fork(id, { name: 'unwritable', from_running: true }), /ssh-keys: .*read-only file system/)
  await shell(server, id, 'mount -o remount,rw /; rm -r /etc/ssh; mount -o remount,ro /')
  const child = await client.instances.fork(id, { name: 'read-only', from_running: true, target_state: 'Running' })
  countVm('read-only')
  assert.notEqual(await shell(server, child.id, 'cat /etc/machine-id'), await shell(server, id, 'cat /etc/machine-id'))
  for (const name of [child.id, id, origin]) await client.instances.delete(name)
  await client.snapshots.delete(snapshot.id)
})

test('a fork that could not take its identity runs only where nobody was to wait for its agent, and says that it is not safe', async () => {
  const script = `${hook('fork.d', '10-fails', 'echo no credentials; exit 3')}echo ready; exec sleep 1000`
  const created = await client.instances.create({
    ...small,
    name: 'gateless',
    skip_guest_agent: true,
    cmd: ['/bin/sh', '-c', script],
  })
  await untilRunning(server, created.id)
  await untilLogged(created.id, 'ready')
  const fork = (await client.instances.fork(created.id, { name: 'unsafe', from_running: true, target_state: 'Running' })) as {
    readonly id: string
    readonly state: string
    readonly unsafe_fork?: string
  }
  countVm('unsafe')
  assert.equal(fork.state, 'Running')
  assert.match(fork.unsafe_fork ?? '', /10-fails: ended with code 3: no credentials/)
  const restored = (await client.instances.get(created.id)) as { readonly unsafe_fork?: string }
  assert.equal(restored.unsafe_fork, undefined)
  for (const id of [fork.id, created.id]) await client.instances.delete(id)
})

async function untilLogged(id: string, wanted: string): Promise<void> {
  const answer = await fetch(`${server.url}/instances/${id}/logs?source=app&follow=true`, {
    headers: { authorization: `Bearer ${server.token}` },
    signal: AbortSignal.timeout(60_000),
  })
  let seen = ''
  for await (const chunk of answer.body ?? assert.fail('no logs')) {
    seen += Buffer.from(chunk as Uint8Array).toString('utf8')
    if (seen.includes(wanted)) return
  }
  assert.fail(`${wanted} was never logged: ${seen}`)
}
