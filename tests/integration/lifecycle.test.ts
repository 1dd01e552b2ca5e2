// The life of an instance on real QEMU: boot, run, stop, start, standby, restore, end by itself, end by force, delete.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { after, test } from 'node:test'
import { runIn, runMachine, shell, small, untilRunning } from '../support/machine.ts'
import { refusedWith } from '../support/refused.ts'
import { startServer } from '../support/server.ts'
import { killVmm, vmmsOf } from '../support/vmm.ts'
import { countVm } from '../support/vm-count.ts'

const server = await startServer()
after(() => server[Symbol.asyncDispose]())

test('the program gets its command, environment, working directory and host name; its output is the log, its exit code the state', async () => {
  const { id } = await server.client.instances.create({
    ...small,
    name: 'program',
    env: { WHO: 'world' },
    entrypoint: ['/bin/sh', '-c'],
    cmd: ['echo "hello $WHO from $(hostname) in $(pwd)"; echo oops >&2; exit 3'],
    tags: { kind: 'short' },
  })
  const ended = await server.client.instances.wait(id, { state: 'Stopped', timeout: '2m' })
  assert.deepEqual([ended.state, ended.timed_out], ['Stopped', false])
  countVm('boot')
  const instance = await server.client.instances.get(id)
  assert.equal(instance.exit_code, 3)
  assert.ok(instance.stopped_at)
  const lines = []
  for await (const line of await server.client.instances.logs(id, { tail: 10 })) lines.push(line)
  assert.deepEqual(lines.toSorted(), ['hello world from program in /', 'oops'])
})

test('a program that is not there ends with 127 and says so', async () => {
  const { id } = await server.client.instances.create({ ...small, name: 'absent', cmd: ['/no/such/program'] })
  await server.client.instances.wait(id, { state: 'Stopped', timeout: '2m' })
  countVm('boot')
  const { exit_code: code, exit_message: message } = await server.client.instances.get(id)
  assert.equal(code, 127)
  assert.match(message ?? '', /no such program|not found|no such file/i)
})

test('stop lets the program end, start boots from the same disk, and the state in between is Stopped', async () => {
  const cmd = ['/bin/sh', '-c', 'trap "echo ended > /root/farewell; exit 0" TERM; echo up; while :; do sleep 1 & wait $!; done']
  const id = await runMachine(server, { name: 'stopping', cmd })
  await shell(server, id, 'echo kept > /root/kept')
  const stopped = await server.client.instances.stop(id)
  assert.equal(stopped.state, 'Stopped')
  assert.equal(stopped.exit_code, 0)
  await assert.rejects(server.client.instances.stop(id), refusedWith(409, /Stopped/))
  const begun = await server.client.instances.start(id, {})
  assert.equal(begun.exit_code ?? null, null)
  await assert.rejects(server.client.instances.start(id, {}), refusedWith(409, /only a Stopped instance/))
  await untilRunning(server, id)
  assert.equal(await shell(server, id, 'cat /root/kept /root/farewell'), 'kept\nended')
  await server.client.instances.delete(id)
})

test('standby keeps programs and memory; restore goes on with them; stop from standby forgets them', async () => {
  const id = await runMachine(server, { name: 'sleeper' })
  await shell(server, id, '(i=0; while :; do i=$((i+1)); echo $i > /run/counter; sleep 0.1; done) >/dev/null 2>&1 &')
  await shell(server, id, 'until [ -s /run/counter ]; do sleep 0.1; done')
  const machineId = await shell(server, id, 'cat /etc/machine-id')

  const standby = await server.client.instances.standby(id)
  assert.deepEqual([standby.state, standby.has_snapshot], ['Standby', true])
  assert.deepEqual(vmmsOf(server), [])
  await assert.rejects(runIn(server, id, 'true'), /must be running \(current state: Standby\)/)

  const restored = await server.client.instances.restore(id)
  countVm('restore')
  assert.deepEqual([restored.state, restored.has_snapshot], ['Running', false])
  const counted = Number(await shell(server, id, 'cat /run/counter'))
  await shell(server, id, `until [ "$(cat /run/counter)" -gt ${counted} ]; do sleep 0.1; done`)
  assert.equal(await shell(server, id, 'cat /etc/machine-id'), machineId)

  await server.client.instances.standby(id)
  const stopped = await server.client.instances.stop(id)
  assert.deepEqual([stopped.state, stopped.has_snapshot], ['Stopped', false])
  await server.client.instances.delete(id)
})

test('an instance goes to standby and back again and again: each time only what changed is written, and all of it comes back', async () => {
  const id = await runMachine(server, { name: 'again' })
  for (const round of [1, 2, 3, 4, 5]) {
    await shell(server, id, `echo ${round} > /run/memory; echo ${round} > /root/disk; sync`)
    await server.client.instances.standby(id)
    await server.client.instances.restore(id)
    countVm('restore')
    assert.equal(await shell(server, id, 'cat /run/memory /root/disk'), `${round}\n${round}`)
  }
  await server.client.instances.delete(id)
})

test('a VMM that is killed leaves a Stopped instance with the reason, which starts again', async () => {
  const id = await runMachine(server, { name: 'victim' })
  await killVmm(server, id)
  const ended = await server.client.instances.wait(id, { state: 'Stopped', timeout: '20s' })
  assert.deepEqual(ended, { state: 'Stopped', timed_out: false })
  await server.client.instances.start(id, {})
  await untilRunning(server, id)
  await server.client.instances.delete(id)
})

test('published ports lead into the guest, and the guest reaches the outside', async () => {
  const cmd = ['/bin/sh', '-c', 'mkdir -p /www; echo served > /www/index.html; exec httpd -f -p 80 -h /www']
  const ports = [{ guest_port: 80, host_port: 0 }]
  const body = { ...small, name: 'web', cmd, network: { enabled: true, ports } }
  const { id } = await server.client.instances.create(body)
  await untilRunning(server, id)
  const address = await publishedAddress(id)
  assert.match(address, /^http:\/\/127\.0\.0\.1:\d+$/)
  await shell(server, id, 'until wget -q -O - http://127.0.0.1/ >/dev/null; do sleep 0.1; done')
  assert.equal(await (await fetch(address)).text(), 'served\n')

  await using outside = await listen('outside says hello\n')
  assert.equal(await shell(server, id, `nc 10.0.2.2 ${outside.port} </dev/null`), 'outside says hello')

  const snapshot = await server.client.instances.snapshots.create(id, { kind: 'Standby' })
  const fork = await server.client.snapshots.fork(snapshot.id, { name: 'web-fork' })
  countVm('fork')
  const forked = await publishedAddress(fork.id)
  assert.notEqual(forked, address)
  assert.equal(await (await fetch(forked)).text(), 'served\n')
  assert.equal(await (await fetch(address)).text(), 'served\n')
  for (const one of [id, fork.id]) await server.client.instances.delete(one)
  await server.client.snapshots.delete(snapshot.id)
})

test('a port that somebody listens on is refused by name, and nothing is left of the instance', async () => {
  await using holder = await listen('')
  const network = { enabled: true, ports: [{ guest_port: 80, host_port: holder.port }] }
  const create = server.client.instances.create({ ...small, name: 'clash', network } as Parameters<
    typeof server.client.instances.create
  >[0])
  await assert.rejects(create, refusedWith(409, new RegExp(`tcp port ${holder.port} .* taken`)))
  await assert.rejects(server.client.instances.get('clash'), refusedWith(404, /clash/))
})

test('an instance without a network has none', async () => {
  const id = await runMachine(server, { name: 'island', network: { enabled: false } })
  const { network } = await server.client.instances.get(id)
  assert.deepEqual([network?.enabled, network?.mac], [false, null])
  assert.equal(await shell(server, id, 'ls /sys/class/net; ping -c 1 127.0.0.1 >/dev/null && echo up'), 'lo\nup')
  await server.client.instances.delete(id)
})

test('an instance whose time is over is deleted, also while it runs', async () => {
  const { id, expires_at: expires } = await server.client.instances.create({ ...small, name: 'brief', ttl: '2s' })
  assert.ok(expires !== null && Date.parse(expires) > Date.now())
  await assert.rejects(server.client.instances.wait(id, { state: 'Paused', timeout: '30s' }), refusedWith(404, /brief|deleted/))
  assert.deepEqual(vmmsOf(server), [])
})

test('a wait ends when it must: at its time limit, or in a state that leads nowhere', async () => {
  const id = await runMachine(server, { name: 'waited' })
  assert.deepEqual(await server.client.instances.wait(id, { state: 'Standby', timeout: '300ms' }), { state: 'Running', timed_out: true })
  await server.client.instances.stop(id)
  assert.deepEqual(await server.client.instances.wait(id, { state: 'Running', timeout: '30s' }), { state: 'Stopped', timed_out: false })
  await server.client.instances.delete(id)
})

test('stats tell what the VMM takes and what the guest has sent', async () => {
  const id = await runMachine(server, { name: 'measured' })
  await shell(server, id, 'nc 10.0.2.2 9 </dev/null; true')
  const stats = await server.client.instances.stats(id)
  assert.ok(stats.cpu_seconds > 0 && stats.memory_rss_bytes > 2 ** 24, JSON.stringify(stats))
  const { memory_private_bytes: own, memory_shared_bytes: shared } = stats as typeof stats & Record<string, number | undefined>
  assert.ok(own !== undefined && shared !== undefined && own > 0 && own + shared <= stats.memory_rss_bytes * 1.1, JSON.stringify(stats))
  assert.ok(stats.network_tx_bytes > 0, JSON.stringify(stats))
  assert.equal(stats.allocated_memory_bytes, 192 * 2 ** 20)
  await server.client.instances.delete(id)
})

test('a followed log goes on while the program writes, and ends with its reader', async () => {
  const id = await runMachine(server, {
    name: 'chatty',
    cmd: ['/bin/sh', '-c', 'i=0; while :; do i=$((i+1)); echo line $i; sleep 0.2; done'],
  })
  const seen: string[] = []
  const stream = await server.client.instances.logs(id, { tail: 1, follow: true })
  for await (const line of stream) if (seen.push(line) === 4) break
  const numbers = seen.map((line) => Number(line.replace('line ', '')))
  assert.deepEqual(
    numbers,
    numbers.map((_, index) => (numbers[0] ?? 0) + index),
  )
  await server.client.instances.delete(id)
})

async function publishedAddress(id: string): Promise<string> {
  const { network } = (await server.client.instances.get(id)) as { network?: { ports?: { host_address: string; host_port: number }[] } }
  const port = network?.ports?.[0]
  return `http://${port?.host_address}:${port?.host_port}`
}

/** Says something to whoever connects to a port of the host. */
async function listen(greeting: string): Promise<AsyncDisposable & { readonly port: number }> {
  const listener = createServer((socket) => socket.on('error', () => undefined).end(greeting))
  listener.listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const address = listener.address()
  if (address === null || typeof address === 'string') throw new Error('the listener has no port')
  return {
    port: address.port,
    async [Symbol.asyncDispose]() {
      listener.close()
      await once(listener, 'close')
    },
  }
}
