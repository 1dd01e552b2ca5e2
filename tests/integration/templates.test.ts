// Machines that begin with a template: nobody in them can tell, but for the time that it took, and no two of them share what must be their own.

import assert from 'node:assert/strict'
import { appendFile, readdir } from 'node:fs/promises'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { dataLayout, templateFiles } from '../../src/files/layout.ts'
import { eventsOf } from '../support/instance-events.ts'
import { runMachine, shell, untilRunning } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { until } from '../support/until.ts'
import { vmmsOf } from '../support/vmm.ts'
import { countVm } from '../support/vm-count.ts'

const server = await startServer({ TEMPLATES: 'true' })
after(() => server[Symbol.asyncDispose]())
const layout = dataLayout(server.dataDirectory)

const body = { env: { COLOUR: 'blue' }, cmd: ['sleep', '1000'] }
let cold = ''
let warm = ''

before(async () => {
  cold = await runMachine(server, { name: 'cold', ...body })
  await templateMade()
  warm = await runMachine(server, { name: 'warm', ...body })
})

async function templateMade(): Promise<void> {
  await until('a template is there', async () => (await readdir(layout.templates)).length === 1, 120_000)
  countVm('template')
}

/** The flows of an instance's events with their steps. */
async function stepsOf(id: string): Promise<string[]> {
  return (await eventsOf(server, id)).flatMap(({ flow, step }) => (flow === undefined ? [] : [`${flow}/${step ?? ''}`]))
}

test('the first machine of its kind boots, the next one begins with the template', async () => {
  const [first, next] = [await stepsOf(cold), await stepsOf(warm)]
  assert.ok(first.includes('instance.create/vmm') && !first.includes('instance.create/load'))
  assert.ok(next.includes('instance.create/load') && !next.includes('instance.create/vmm'))
  assert.ok(!(await readdir(layout.instance(warm))).includes('memory.json'), 'its memory is no image any more')
})

test('environment, names, mounts, processes, files and program are those of a machine that booted', async () => {
  const look = [
    'env | sort | grep -v ^HYPEMAN_',
    'pwd; id; hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf; readlink /etc/machine-id',
    'sort /proc/mounts; ls /; ls /run /run/hypeman; cat /proc/cmdline',
    'tr "\\0" " " < /proc/1/cmdline; ps | grep -c "[s]leep 1000"',
    'ip -o -4 addr show eth0 | sed "s/^[0-9]*: //"; ip route; cat /sys/class/block/*/size; nproc; grep MemTotal /proc/meminfo',
  ].join('; ')
  const [booted, begun] = [await shell(server, cold, look), await shell(server, warm, look)]
  assert.equal(begun.replaceAll('warm', 'cold'), booted)
})

test('machine id, boot id, MAC and random bytes are its own, the clock is right', async () => {
  const other = await runMachine(server, { name: 'other', ...body })
  const look = 'cat /etc/machine-id /proc/sys/kernel/random/boot_id /sys/class/net/eth0/address; head -c 16 /dev/urandom | xxd -p; date +%s'
  const seen = await Promise.all([cold, warm, other].map(async (id) => (await shell(server, id, look)).split('\n')))
  for (const column of [0, 1, 2, 3]) assert.equal(new Set(seen.map((lines) => lines[column])).size, 3, `column ${column}`)
  for (const lines of seen) assert.ok(Math.abs(Number(lines[4]) * 1000 - Date.now()) < 5_000)
  for (const [at, id] of [cold, warm, other].entries()) assert.equal(seen[at]?.[2], (await server.client.instances.get(id)).network?.mac)
  await server.client.instances.delete(other)
})

test('the uptime is that of the guest, which began before the machine did', async () => {
  assert.ok(Number(await shell(server, warm, 'cut -d" " -f1 /proc/uptime')) > 0)
})

test('its log begins with the boot, and its program is started once and ends it', async () => {
  const made = await server.client.instances.create({
    image: 'hypeman/base',
    size: '192MB',
    vcpus: 1,
    overlay_size: '1GB',
    name: 'short',
    cmd: ['sh', '-c', 'echo said; exit 3'],
  })
  const { state } = await server.client.instances.wait(made.id, { state: 'Stopped', timeout: '1m' })
  assert.equal(state, 'Stopped')
  assert.ok((await stepsOf(made.id)).includes('instance.create/load'))
  const ended = await server.client.instances.get(made.id)
  assert.equal(ended.exit_code, 3)
  const logs: string[] = []
  for await (const line of await server.client.instances.logs(made.id, { source: 'app' })) logs.push(line)
  assert.deepEqual(logs.filter((line) => line.includes('said')).length, 1)
  await server.client.instances.delete(made.id)
})

test('it stops and boots, goes to standby and comes back, and its snapshots fork', async () => {
  await shell(server, warm, 'echo kept > /root/file; sync')
  await server.client.instances.stop(warm)
  await server.client.instances.start(warm, {})
  await untilRunning(server, warm)
  assert.equal(await shell(server, warm, 'cat /root/file'), 'kept')

  const begun = await runMachine(server, { name: 'begun', ...body })
  await shell(server, begun, 'echo here > /run/file')
  const snapshot = await server.client.instances.snapshots.create(begun, { kind: 'Standby' })
  await server.client.instances.standby(begun)
  await server.client.instances.restore(begun)
  const fork = await server.client.snapshots.fork(snapshot.id, { name: 'fork' })
  countVm('fork')
  for (const id of [begun, fork.id])
    assert.equal(await shell(server, id, 'cat /run/file; hostname'), `here\n${id === begun ? 'begun' : 'fork'}`)
  for (const id of [begun, fork.id]) await server.client.instances.delete(id)
  await server.client.snapshots.delete(snapshot.id)
})

test('another image, size or network is another kind, and boots', async () => {
  const other = await runMachine(server, { name: 'larger', size: '256MB', ...body })
  assert.ok((await stepsOf(other)).includes('instance.create/vmm'))
  await server.client.instances.delete(other)
})

test('templates are there after a restart of the server; a damaged one is dropped, and the machine boots', async () => {
  await until('what is being made is done', async () => (await readdir(layout.staging)).length === 0, 120_000)
  await server.restart()
  const again = await runMachine(server, { name: 'again', ...body })
  assert.ok((await stepsOf(again)).includes('instance.create/load'))
  for (const key of await readdir(layout.templates))
    await appendFile(path.join(layout.template(key), templateFiles.payload, 'device.state'), 'x')
  const booted = await runMachine(server, { name: 'booted', ...body })
  assert.ok((await stepsOf(booted)).includes('instance.create/vmm'))
  assert.match(await server.log(), /the template is damaged: device\.state/)
  for (const id of [again, booted]) await server.client.instances.delete(id)
})

test('a server that is killed while it makes a template leaves nothing of it', async () => {
  await server.restart({ TEMPLATES: 'true', HYPEMAN_FAULTS: 'template.make/freeze@after:kill' })
  const one = await runMachine(server, { name: 'one', size: '224MB', ...body })
  await server.died()
  await server.restart()
  assert.deepEqual(await readdir(layout.staging), [])
  const pids = vmmsOf(server)
  assert.equal(pids.length, (await server.client.instances.list()).filter(({ state }) => state === 'Running').length)
  await server.client.instances.delete(one)
})
