// What is special to instances on Cloud Hypervisor, through the server, with real guests; what all hypervisors have to do is in hypervisors.test.ts.

import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { hypervisorsUnderTest, startHypervisor } from '../support/hypervisors.ts'
import { runMachine, shell, small } from '../support/machine.ts'
import { refusedWith } from '../support/refused.ts'
import { until } from '../support/until.ts'
import { countVm } from '../support/vm-count.ts'

const [under] = hypervisorsUnderTest('cloud-hypervisor')
assert.ok(under)

test('cloud-hypervisor', { skip: under.skip ?? false }, async (t) => {
  const programs = await mkdtemp(path.join(os.tmpdir(), 'programs-'))
  await using undo = new AsyncDisposableStack()
  undo.defer(() => rm(programs, { recursive: true }))
  /** The program that the setting names. */
  const usual = path.join(programs, 'cloud-hypervisor')
  const launcher = `#!/bin/sh\nexec '${under.settings['HYPERVISOR__CLOUD_HYPERVISOR']}' "$@"\n`
  await writeFile(usual, launcher, { mode: 0o755 })
  const settings = { ...under.settings, HYPERVISOR__CLOUD_HYPERVISOR: usual }
  const { server, body } = undo.use(await startHypervisor({ ...under, settings }))
  const { client } = server
  const machine = { ...body, hypervisor: 'cloud-hypervisor' } as const

  const logOf = async (id: string): Promise<string[]> => {
    const lines = []
    for await (const line of await client.instances.logs(id, { tail: 20 })) lines.push(line)
    return lines
  }

  await t.test('the log goes on over standby, restore and a new start, line by line as it was written', async () => {
    const cmd = [
      '/bin/sh',
      '-c',
      'trap "exit 0" TERM; echo up; while :; do [ -e /run/say ] && { cat /run/say; rm /run/say; }; sleep 0.1 & wait $!; done',
    ]
    const id = await runMachine(server, { ...machine, name: 'logged', cmd })
    await client.instances.standby(id)
    await client.instances.restore(id)
    countVm('restore')
    await shell(server, id, 'echo again > /run/words; mv /run/words /run/say; until [ ! -e /run/say ]; do sleep 0.1; done')
    await client.instances.stop(id)
    assert.deepEqual(await logOf(id), ['up', 'again'])
    await client.instances.start(id, {})
    assert.equal((await client.instances.wait(id, { state: 'Running', timeout: '2m' })).state, 'Running')
    countVm('boot')
    // A program that is stopped as soon as it was started has said nothing yet.
    await until('the program has spoken again', async () => (await logOf(id)).length === 3)
    await client.instances.stop(id)
    assert.deepEqual(await logOf(id), ['up', 'again', 'up'])
    await client.instances.delete(id)
  })

  const asked = { ...machine, name: 'source', hotplug_size: '1GB' }
  const source = await runMachine(server, { ...asked, cmd: ['/bin/sh', '-c', 'sleep 1000000'] })

  await t.test('memory that may be added is shown as it was asked for, and neither given nor claimed until it is', async () => {
    const { size, hotplug_size: shown } = await client.instances.get(source)
    assert.deepEqual([size, shown], ['192.0 MB', '1.0 GB'])
    assert.equal((await client.instances.stats(source)).allocated_memory_bytes, 192 * 1024 ** 2)
    const kilobytes = Number(await shell(server, source, "sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo"))
    assert.ok(kilobytes > 0 && kilobytes < 192 * 1024, `${kilobytes} kB`)
    const { memory } = await client.resources.get()
    assert.equal(memory.allocated, 192 * 1024 ** 2)
  })

  await t.test('traffic is what the VMM has counted: a fork does not begin with what its source has moved', async () => {
    const gateway = "$(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p')"
    await shell(server, source, `head -c 4000000 /dev/urandom > /root/large && sync && ping -c 3 -s 1000 ${gateway}`)
    const moved = await client.instances.stats(source)
    const { disk_written_bytes: written } = moved as typeof moved & Record<string, unknown>
    assert.ok(typeof written === 'number' && written >= 4_000_000, `written: ${String(written)}`)
    assert.ok(moved.network_rx_bytes >= 3_000, `received: ${moved.network_rx_bytes}`)
    assert.ok(moved.network_tx_bytes >= 3_000, `sent: ${moved.network_tx_bytes}`)

    const { id } = await client.instances.fork(source, { name: 'twin', from_running: true })
    countVm('fork')
    const forked = await client.instances.stats(id)
    const { disk_written_bytes: writtenAnew } = forked as typeof forked & Record<string, unknown>
    assert.ok(typeof writtenAnew === 'number' && writtenAnew < 4_000_000, `written: ${String(writtenAnew)}`)
    assert.ok(forked.network_rx_bytes < 3_000, `received: ${forked.network_rx_bytes}`)
    await client.instances.delete(id)
  })

  /** Of a guest with `fork` in its memory. */
  let memory = ''

  await t.test('a snapshot of a fork has the memory that the fork never asked for', async () => {
    const id = source
    // On a file system in memory: nothing reads it again by itself.
    await shell(server, id, 'head -c 20000000 /dev/urandom > /run/large; md5sum < /run/large > /run/sum')
    const snapshot = await client.instances.snapshots.create(id, { kind: 'Standby' })
    const fork = await client.snapshots.fork(snapshot.id, { name: 'fork' })
    countVm('fork')
    await shell(server, fork.id, 'echo fork > /run/who')
    const again = await client.instances.snapshots.create(fork.id, { kind: 'Standby' })
    for (const gone of [id, fork.id]) await client.instances.delete(gone)
    await client.snapshots.delete(snapshot.id)
    const last = await client.snapshots.fork(again.id, { name: 'last' })
    countVm('fork')
    assert.equal(await shell(server, last.id, 'md5sum < /run/large | cmp - /run/sum && cat /run/who'), 'fork')
    await client.instances.delete(last.id)
    memory = again.id
  })

  await t.test(
    'a memory snapshot is forked by an installed program of the version that wrote it, while the one for new machines is broken',
    async () => {
      const { runtimes } = await client.capabilities.get()
      const { version } = runtimes.find(({ name }) => name === 'cloud-hypervisor') as unknown as { readonly version: string }
      const installed = path.join(server.dataDirectory, 'hypervisors', 'cloud-hypervisor', version)
      await mkdir(installed, { recursive: true })
      await writeFile(path.join(installed, 'cloud-hypervisor'), launcher, { mode: 0o755 })
      await writeFile(usual, '#!/bin/sh\nexit 1\n')
      await server.restart()
      await assert.rejects(
        server.client.instances.create({ ...small, ...machine, name: 'new' }),
        refusedWith(503, /cloud-hypervisor can't run here: .* can't be run/),
      )
      const { id } = await server.client.snapshots.fork(memory, { name: 'old' })
      countVm('fork')
      assert.equal(await shell(server, id, 'cat /run/who'), 'fork')
    },
  )
})
