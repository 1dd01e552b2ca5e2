// One guest on several hypervisors and versions of them: its disks go from one to another, and its memory finds the program that wrote it.

import assert from 'node:assert/strict'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { after, test } from 'node:test'
import { runMachine, shell, untilRunning } from '../support/machine.ts'
import { refusedWith } from '../support/refused.ts'
import { startServer } from '../support/server.ts'
import { countVm } from '../support/vm-count.ts'

const server = await startServer()
after(() => server[Symbol.asyncDispose]())

const body = { cmd: ['/bin/sleep', '1000000'] }
const source = await runMachine(server, { ...body, name: 'source' })
await shell(server, source, 'echo on-disk > /root/kept; echo in-memory > /run/lost; sync')

test('memory is restored by the version that wrote it, also where new machines start on another one', async () => {
  await server.client.instances.standby(source)
  // Newer by its name and its word, so that new machines would start on it; it is no QEMU at all.
  const newer = path.join(server.dataDirectory, 'hypervisors', 'qemu', '999.0.0')
  await mkdir(newer, { recursive: true })
  const program = path.join(newer, 'qemu-system-x86_64')
  await writeFile(program, '#!/bin/sh\necho "QEMU emulator version 999.0.0"\n', { mode: 0o755 })
  await server.restart()
  await server.client.instances.restore(source)
  countVm('restore')
  assert.equal(await shell(server, source, 'cat /root/kept /run/lost'), 'on-disk\nin-memory')
  await assert.rejects(
    server.client.instances.create({ ...body, image: 'hypeman/base', name: 'new', size: '192MB' }),
    refusedWith(503, /QEMU|ended at once/),
  )
  await rm(newer, { recursive: true })
})

test('a memory snapshot is forked by the version that wrote it, also where the one that new machines start on is broken', async () => {
  const snapshot = await server.client.instances.snapshots.create(source, { kind: 'Standby' })
  // Newer by its name: chosen for new machines, and not even its version can be asked.
  const newer = path.join(server.dataDirectory, 'hypervisors', 'qemu', '999.0.0')
  await mkdir(newer, { recursive: true })
  await writeFile(path.join(newer, 'qemu-system-x86_64'), '#!/bin/sh\nexit 1\n', { mode: 0o755 })
  await server.restart()
  const broken = refusedWith(503, /can't be run.*install version 999\.0\.0 again/)
  await assert.rejects(server.client.instances.create({ ...body, image: 'hypeman/base', name: 'new', size: '192MB' }), broken)
  const fork = await server.client.snapshots.fork(snapshot.id, { name: 'old' })
  countVm('fork')
  assert.equal(await shell(server, fork.id, 'cat /root/kept /run/lost'), 'on-disk\nin-memory')
  await server.client.instances.delete(fork.id)
  await server.client.snapshots.delete(snapshot.id)
  await rm(newer, { recursive: true })
  await server.restart()
})

/** What the official client's types do not have. */
const elsewhere = { name: 'elsewhere', target_hypervisor: 'qemu-microvm' } as const

test('a stopped instance is forked onto another hypervisor, and the guest finds its disk there; one with memory is not', async () => {
  const { client } = server
  await assert.rejects(
    client.instances.fork(source, { ...elsewhere, from_running: true }),
    refusedWith(400, /target_hypervisor: source is Running/),
  )
  await client.instances.stop(source)
  const fork = await client.instances.fork(source, elsewhere)
  assert.deepEqual([fork.hypervisor, fork.state], ['qemu-microvm', 'Stopped'])
  await client.instances.start(fork.id, {})
  await untilRunning(server, fork.id)
  assert.equal(await shell(server, fork.id, 'cat /root/kept; ls /run/lost 2>/dev/null || echo cold'), 'on-disk\ncold')
  await client.instances.delete(fork.id)
})
