// The search for leftovers must find each kind, and only those of its own run.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, realpath, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { run } from '../../tests/support/command.ts'
import { clearLeftovers, findLeftovers, type Leftover } from './leftovers.ts'

const notRoot = process.getuid?.() === 0 ? false : 'mounting needs root'

test('a run that left nothing is clean, whatever else runs on the machine', async () => {
  const directory = await runDirectory()
  const other = spawn('sleep', ['600'], { env: { HYPEMAN_TEST_RUN: '/another/run' }, stdio: 'ignore' })
  try {
    assert.deepEqual(await findLeftovers(directory, AbortSignal.timeout(0)), [])
  } finally {
    other.kill('SIGKILL')
    await once(other, 'exit')
    await clearLeftovers(directory, [])
  }
})

test('processes are found by environment, directory or argument, and are gone with the directory after clearing', async () => {
  const directory = await runDirectory()
  const started = [
    spawn('sleep', ['600'], { env: { HYPEMAN_TEST_RUN: directory }, cwd: '/', stdio: 'ignore' }),
    spawn('sleep', ['600'], { env: {}, cwd: directory, stdio: 'ignore' }),
    spawn('tail', ['-f', '/dev/null', `${directory}/`], { env: {}, cwd: '/', stdio: 'ignore' }),
  ]
  await Promise.all(started.map((child) => once(child, 'spawn')))
  const exits = Promise.all(started.map((child) => once(child, 'exit')))
  const found = await findLeftovers(directory, AbortSignal.timeout(0))
  assert.deepEqual(
    pidsOf(found),
    started.map((child) => child.pid ?? -1).toSorted((one, other) => one - other),
  )
  await clearLeftovers(directory, found)
  await exits
  assert.ok(!existsSync(directory))
})

test('a process that is just ending is waited for', async () => {
  const directory = await runDirectory()
  const child = spawn('cat', { env: { HYPEMAN_TEST_RUN: directory }, cwd: '/', stdio: ['pipe', 'ignore', 'ignore'] })
  await once(child, 'spawn')
  const finding = findLeftovers(directory, AbortSignal.timeout(30_000))
  child.stdin.end()
  assert.deepEqual(await finding, [])
  await clearLeftovers(directory, [])
})

test('files, mounts and loop devices are found; what is mounted is not removed', { skip: notRoot }, async () => {
  const directory = await runDirectory()
  const [image, point] = [path.join(directory, 'image'), path.join(directory, 'point')]
  await mkdir(point)
  await run('truncate', ['--size', '1M', image])
  const device = (await run('losetup', ['--find', '--show', image])).stdout.trim()
  await run('mount', ['-t', 'tmpfs', 'tmpfs', point])
  try {
    await writeFile(path.join(point, 'kept'), '')
    const found = await findLeftovers(directory, AbortSignal.timeout(0))
    assert.deepEqual(
      found.map(({ what }) => what),
      [`mount on ${point}`, `${device} over ${image}`, image, point],
    )
    await clearLeftovers(directory, found)
    assert.ok(existsSync(path.join(point, 'kept')))
  } finally {
    await run('umount', [point])
    await run('losetup', ['--detach', device])
    await clearLeftovers(directory, [])
  }
})

test('network devices and rules are found by the run that they name; devices are removed', { skip: notRoot }, async () => {
  const directory = await runDirectory()
  const device = `hmleft${process.pid}`
  const rule = ['INPUT', '-i', device, '-m', 'comment', '--comment', `hypeman ${directory}/data`, '-j', 'ACCEPT']
  await run('ip', ['tuntap', 'add', 'dev', device, 'mode', 'tap'])
  await run('ip', ['link', 'set', 'dev', device, 'alias', `hypeman ${directory}/data some-instance`])
  await run('iptables', ['-w', '10', '-A', ...rule])
  try {
    const found = await findLeftovers(directory, AbortSignal.timeout(0))
    assert.deepEqual(
      found.map(({ kind }) => kind),
      ['network device', 'rule'],
    )
    await clearLeftovers(directory, found)
    assert.ok(!existsSync(`/sys/class/net/${device}`))
  } finally {
    await run('iptables', ['-w', '10', '-D', ...rule])
    await clearLeftovers(directory, [])
  }
})

function pidsOf(found: readonly Leftover[]): number[] {
  return found.flatMap(({ kind, pid }) => (kind === 'process' ? [pid ?? -1] : [])).toSorted((one, other) => one - other)
}

async function runDirectory(): Promise<string> {
  return realpath(await mkdtemp(path.join(tmpdir(), 'run-')))
}
