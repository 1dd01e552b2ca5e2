// What an instance can be given, and given later, seen in a real machine: its environment, a limit of disk throughput, a share of what the host has; and how long it was in which phase.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import os from 'node:os'
import { after, test } from 'node:test'
import { APIError } from '@onkernel/hypeman'
import { run } from '../support/command.ts'
import { devicesBelow, hasHostNetwork } from '../support/host-network.ts'
import { runMachine, shell, small, untilRunning } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { vmmOf } from '../support/vmm.ts'
import { countVm } from '../support/vm-count.ts'

const server = await startServer()
after(() => server[Symbol.asyncDispose]())

/** Another client after each restart. */
const instances = () => server.client.instances

/** The limits of the drives on the command line of an instance's VMM. */
async function limitsOf(id: string): Promise<(string | undefined)[]> {
  const args = (await readFile(`/proc/${vmmOf(server, id)}/cmdline`, 'utf8')).split('\0')
  const drives = args.filter((_, index) => args[index - 1] === '-drive')
  return drives.map((drive) => /throttling\.bps-total=(\d+),throttling\.group=disks/.exec(drive)?.[1])
}

/** The present phase, and those that have lasted at all, which together are its whole life. */
async function phasesOf(id: string): Promise<[string | undefined, string[]]> {
  const asked = Date.now()
  const { created_at: created, current_phase: phase, phase_durations_ms: durations = {} } = await instances().get(id)
  const sumMs = Object.values(durations).reduce((sum, ms) => sum + ms, 0)
  // Its first phase begins in the moment in which it is created, give or take what its record takes to be made.
  const [least, most] = [asked, Date.now()].map((ms) => ms - Date.parse(created))
  assert.ok(least !== undefined && most !== undefined && sumMs >= least - 100 && sumMs <= most, `${sumMs} of ${least} to ${most} ms`)
  return [phase, Object.keys(durations).toSorted()]
}

/** As QEMU tells them, too (src/hypervisors/qemu/disk-limit.test.ts). */
const limited = [String(200 * 1024 ** 2), String(200 * 1024 ** 2)]

test('a limit of the disks goes with every start; an environment that is changed counts from the next boot, and what goes on from memory keeps the old one', async () => {
  const id = await runMachine(server, {
    name: 'changed',
    env: { COLOR: 'green', SIZE: 'small' },
    disk_io_bps: '200MB/s',
    cmd: ['/bin/sh', '-c', 'echo "$COLOR $SIZE $SHAPE" >> /root/seen; exec sleep 100000'],
  })
  const changed = await instances().update(id, { env: { COLOR: 'red', SHAPE: 'round' } })
  assert.deepEqual([changed.state, changed.env], ['Running', { COLOR: 'red', SIZE: 'small', SHAPE: 'round' }])
  assert.equal(await shell(server, id, 'echo $COLOR'), 'green')
  const fork = await instances().fork(id, { name: 'changed-fork', from_running: true })
  countVm('fork')
  assert.deepEqual(fork.env, changed.env)
  assert.deepEqual([fork.disk_io_bps, await limitsOf(id), await limitsOf(fork.id)], ['200.0 MB/s', limited, limited])
  assert.equal(await shell(server, fork.id, 'echo $COLOR'), 'green')
  await instances().standby(fork.id)
  await instances().restore(fork.id)
  countVm('restore')
  assert.deepEqual(await limitsOf(fork.id), limited)
  assert.deepEqual(await phasesOf(fork.id), ['running', ['created', 'initializing', 'running', 'standby']])
  await instances().delete(fork.id)

  await instances().stop(id)
  await server.crash()
  await server.restart()
  await instances().update(id, { env: { SIZE: '' } })
  await instances().start(id, {})
  await untilRunning(server, id)
  assert.equal(await shell(server, id, 'cat /root/seen; echo $COLOR'), 'green small \nred  round\nred')
  assert.deepEqual(await limitsOf(id), limited)
  await assert.rejects(instances().update(id, { env: {} }), (error) => error instanceof APIError && error.status === 400)
  await assert.rejects(instances().update(id, { env: { 'A=B': '' } }), (error) => error instanceof APIError && error.status === 400)
  assert.deepEqual(await phasesOf(id), ['running', ['created', 'initializing', 'running', 'stopped']])
  await instances().delete(id)
})

test('without a limit QEMU is told of none, and one that is no rate, or too small to boot with, is refused', async () => {
  const id = await runMachine(server, { name: 'unlimited', disk_io_bps: '0' })
  assert.deepEqual(await limitsOf(id), [undefined, undefined])
  assert.equal((await instances().get(id)).disk_io_bps, undefined)
  await instances().delete(id)
  for (const rate of ['fast', '1KB/s'])
    await assert.rejects(
      instances().create({ ...small, name: 'refused', disk_io_bps: rate }),
      (error) => error instanceof APIError && error.status === 400 && (error.error as { code: string }).code === 'invalid_disk_io_bps',
    )
})

test('where the operator has said what the host has, a machine is held to the share of its processors, which is shown and goes with its forks', async () => {
  // So that one processor's share is a half of each, however many this host has.
  const ratio = String(os.availableParallelism() / 2)
  const told = {
    CAPACITY__DISK_IO: '400MB/s',
    CAPACITY__NETWORK: '1Gbps',
    OVERSUBSCRIPTION__DISK_IO: ratio,
    OVERSUBSCRIPTION__NETWORK: ratio,
  }
  const onTap = hasHostNetwork ? { NETWORK__MODE: 'tap', NETWORK__SUBNET_CIDR: '10.216.0.0/24' } : {}
  await server.restart({ ...told, ...onTap })
  const id = await runMachine(server, { name: 'sharing', cmd: ['sleep', '100000'] })
  const bandwidth = hasHostNetwork ? ['500Mbps', '500Mbps'] : [undefined, undefined]
  const shownOf = async (one: string) => {
    const { disk_io_bps: disk, network } = await instances().get(one)
    return { disk, bandwidth: [network?.bandwidth_download, network?.bandwidth_upload] }
  }
  const share = { disk: '200.0 MB/s', bandwidth }
  assert.deepEqual([await shownOf(id), await limitsOf(id)], [share, limited])
  const devices = await devicesBelow(server.dataDirectory)
  assert.equal(devices.length, hasHostNetwork ? 1 : 0)
  for (const { name } of devices) {
    const [tap, shaper] = [await qdiscsOf(name), await qdiscsOf(name.replace('hmt', 'hmi'))]
    assert.match(tap, /qdisc tbf .*rate 500Mbit/)
    assert.match(shaper, /qdisc tbf .*rate 500Mbit/)
  }
  const { allocations } = await server.client.resources.get()
  const { disk_io_bps: disk, network_download_bps: down, network_upload_bps: up } = allocations.find((one) => one.instance_id === id) ?? {}
  assert.deepEqual([disk, down, up], [200 * 1024 ** 2, ...(hasHostNetwork ? [62_500_000, 62_500_000] : [undefined, undefined])])
  await instances().stop(id)
  const fork = await instances().fork(id, { name: 'sharing-fork', target_state: 'Stopped' })
  assert.deepEqual(await shownOf(fork.id), share)

  await server.restart(onTap)
  assert.deepEqual(await shownOf(id), share)
  for (const one of [id, fork.id]) await instances().delete(one)
})

async function qdiscsOf(device: string): Promise<string> {
  return (await run('tc', ['qdisc', 'show', 'dev', device])).stdout
}
