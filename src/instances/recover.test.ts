// VMMs that belong to nobody are ended; what is not a VMM of this data directory is never touched. The processes are real, the VMMs are shells.

import assert from 'node:assert/strict'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, rm } from 'node:fs/promises'
import os from 'node:os'
import { test } from 'node:test'
import { testContext } from '../../tests/support/instance-context.ts'
import { until } from '../../tests/support/until.ts'
import { newId } from '../platform/ids.ts'
import { identityOf } from '../platform/process.ts'
import { reapStrayVmms } from './recover.ts'

/** A process that waits for ever in a directory, with these arguments. */
async function processIn(
  directory: string,
  ...args: readonly string[]
): Promise<AsyncDisposable & { readonly pid: number; ended(): boolean }> {
  const child: ChildProcess = spawn('/bin/sh', ['-c', 'echo up; read forever', ...args], {
    cwd: directory,
    stdio: ['pipe', 'pipe', 'ignore'],
  })
  if (child.stdout === null || child.pid === undefined) throw new Error('the process did not start')
  const exited = once(child, 'exit')
  await once(child.stdout, 'data')
  return {
    pid: child.pid,
    ended: () => child.exitCode !== null || child.signalCode !== null,
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL')
      await exited
    },
  }
}

test('a VMM of this data directory that no record names is ended, also when its directory is gone', async () => {
  await using world = await testContext()
  const { layout } = world.context
  const [there, gone] = [layout.instance(newId()), layout.instance(newId())]
  for (const directory of [there, gone]) await mkdir(directory)
  await using one = await processIn(there, `hypeman-${newId()}`)
  await using other = await processIn(gone, '-name', `hypeman-${newId()},debug-threads=on`)
  await rm(gone, { recursive: true })
  const reaped = await reapStrayVmms(layout, new Set())
  assert.deepEqual(new Set(reaped), new Set([one.pid, other.pid]))
})

test('a VMM that a record names goes on, and so do other programs and VMMs of other data directories', async () => {
  await using world = await testContext()
  const { layout } = world.context
  const directory = layout.instance(newId())
  await mkdir(directory)
  await using known = await processIn(directory, `hypeman-${newId()}`)
  await using visitor = await processIn(directory, 'hypeman-ps', 'xhypeman-aaaabbbbccccddddeeeeffff')
  await using beside = await processIn(os.tmpdir(), `hypeman-${newId()}`)
  await using sibling = await testContext()
  await using elsewhere = await processIn(sibling.context.layout.instances, `hypeman-${newId()}`)
  assert.deepEqual(await reapStrayVmms(layout, new Set([known.pid])), [])
  for (const one of [known, visitor, beside, elsewhere]) assert.equal(one.ended(), false)
})

test('an instance whose VMM lives and could not be taken over is not taken for one that is stopped', async () => {
  await using world = await testContext()
  const { context } = world
  const entry = await world.add()
  await using vmm = await processIn(context.layout.instance(entry.id))
  await context.store.update(entry, { process: identityOf(vmm.pid) ?? null })
  assert.equal((await entry.observe()).state, 'Unknown')
  process.kill(vmm.pid, 'SIGKILL')
  await until('it is gone', () => vmm.ended())
  assert.equal((await entry.observe()).state, 'Stopped')
})
