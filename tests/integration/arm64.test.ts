// A guest with an arm64 processor under emulation: boot, exec, snapshot of its memory, fork, stop and start. Opt-in, since it fetches packages and takes minutes.

import assert from 'node:assert/strict'
import path from 'node:path'
import { test } from 'node:test'
import { arm64Assets } from '../support/arm64-server/assets.ts'
import { run } from '../support/command.ts'
import { runMachine, shell, untilRunning } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { countVm } from '../support/vm-count.ts'

const main = path.resolve(import.meta.dirname, '../support/arm64-server/main.ts')

async function whyNot(): Promise<string | false> {
  if (process.env['HYPEMAN_TEST_ARM64'] !== '1') return 'HYPEMAN_TEST_ARM64=1 runs it: it fetches packages and takes minutes'
  const { code } = await run('qemu-system-aarch64', ['--version']).catch(() => ({ code: 127 }))
  return code === 0 ? false : 'there is no qemu-system-aarch64: apt-get install qemu-system-arm'
}

test('an arm64 guest boots, runs programs, and goes on in a fork of its memory', { skip: await whyNot() }, async (t) => {
  const assets = await arm64Assets()
  if ('reason' in assets) return t.skip(`no arm64 kernel can be had here: ${assets.reason}`)
  const settings = { ASSETS_DIR: assets.directory, TIMEOUTS__BOOT: '10m', TIMEOUTS__RESTORE: '5m', TEMPLATES: 'false' }
  await using server = await startServer(settings, { command: process.execPath, args: [main] })
  const source = await runMachine(server, { name: 'arm', cmd: ['/bin/sleep', '1000000'] })
  assert.equal(await shell(server, source, 'uname -m'), 'aarch64')
  await shell(server, source, 'echo kept > /root/disk; echo kept > /run/memory; sync')
  const { id } = await server.client.instances.snapshots.create(source, { kind: 'Standby' })
  const fork = await server.client.snapshots.fork(id, { name: 'fork' })
  countVm('fork')
  assert.equal(await shell(server, fork.id, 'cat /root/disk /run/memory; hostname'), 'kept\nkept\nfork')
  await server.client.instances.standby(fork.id)
  await server.client.instances.restore(fork.id)
  countVm('restore')
  assert.equal(await shell(server, fork.id, 'cat /run/memory'), 'kept')
  await server.client.instances.stop(source)
  await server.client.instances.start(source, {})
  await untilRunning(server, source)
  assert.equal(await shell(server, source, 'cat /root/disk'), 'kept')
})
