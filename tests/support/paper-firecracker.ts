// Firecracker's stand-in with guests of paper (tests/vmm-stand-in/paper-guest.ts): a real process, real API, real files, and a guest that is there in a moment and does what a test tells it.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { chmod, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { dataLayout, type DataLayout } from '../../src/files/layout.ts'
import { makeDataDirectories } from '../../src/files/stage.ts'
import type { Hypervisor, Machine, MachineSpec, MemorySnapshots } from '../../src/hypervisors/driver.ts'
import { createFirecrackerDriver } from '../../src/hypervisors/firecracker/index.ts'
import { smallElf } from './kernel-file.ts'

const standIn = path.resolve(import.meta.dirname, '../vmm-stand-in/bin/firecracker')
const DISK_BYTES = 8 * 1024 ** 2

export interface PaperFirecracker extends AsyncDisposable {
  readonly layout: DataLayout
  readonly driver: Hypervisor
  readonly memory: MemorySnapshots
  /** A driver that starts another program, or has other knowledge of the host. */
  driverWith(options: { readonly command?: string; readonly whyNoKvm?: string; readonly pageHoles?: boolean }): Hypervisor
  /** Replaces the program by a shell script, which is given the arguments; by default by the stand-in again. */
  install(lines?: string): Promise<void>
  /** A line of a script that starts the stand-in with guests of paper. */
  readonly standIn: string
  /** A new, empty directory for an instance or a payload. */
  directory(): Promise<string>
  spec(directory: string): MachineSpec
  /** A machine with a disk of its own that runs. */
  start(change?: Partial<MachineSpec>): Promise<{ readonly machine: Machine; readonly spec: MachineSpec }>
  /** A running machine that goes on from a payload. */
  fork(payload: string): Promise<{ readonly machine: Machine; readonly spec: MachineSpec }>
  owns(machine: Machine): Machine
}

const never = new AbortController().signal

/** `root` is an existing directory, by default a temporary one. */
export async function paperFirecracker(root?: string): Promise<PaperFirecracker> {
  const home = root ?? (await mkdtemp(path.join(os.tmpdir(), 'paper-')))
  const layout = dataLayout(path.join(home, 'data'))
  await makeDataDirectories(layout)
  const [program, kernel] = [path.join(home, 'firecracker'), path.join(home, 'vmlinux')]
  await writeFile(kernel, smallElf())
  // Their processes are not waited for by the event loop, and nothing else may be under way while one ends.
  const alive = setInterval(() => undefined, 60_000)
  const machines: Machine[] = []
  let count = 0
  const driverWith: PaperFirecracker['driverWith'] = ({ command = program, whyNoKvm, pageHoles }) =>
    createFirecrackerDriver({
      layout,
      command,
      kernelImage: (image) => Promise.resolve(image),
      whyNoKvm: () => Promise.resolve(whyNoKvm),
      ...(pageHoles === undefined ? {} : { pageHoles: () => Promise.resolve(pageHoles) }),
    })
  const driver = driverWith({})
  const { memory } = driver
  assert.ok(memory)
  const start = `exec env STAND_IN_GUEST=paper '${standIn}' "$@"`
  const host: PaperFirecracker = {
    layout,
    driver,
    memory,
    driverWith,
    standIn: start,
    async install(lines = start) {
      await writeFile(program, `#!/bin/sh\n${lines}\n`)
      await chmod(program, 0o755)
    },
    async directory() {
      const directory = layout.instance(`m${(count += 1)}`)
      await mkdir(path.join(directory, 'logs'), { recursive: true })
      return directory
    },
    spec: (directory) => ({
      instanceId: path.basename(directory).padEnd(24, 'x'),
      directory,
      vcpus: 1,
      memoryMib: 8,
      kernel,
      initrd: kernel,
      disks: [{ id: 'rootfs', path: kernel, readOnly: true }],
      diskBytesPerSecond: null,
      network: null,
    }),
    async start(change = {}) {
      const directory = await host.directory()
      await driver.createDisk(directory, DISK_BYTES)
      const spec = { ...host.spec(directory), ...change }
      return { machine: host.owns(await driver.boot(spec, never)), spec }
    },
    async fork(payload) {
      const spec = host.spec(await host.directory())
      await driver.materialise(payload, spec.directory, true)
      const machine = host.owns(await memory.restore(spec, await driver.stamp(), never))
      assert.equal(await machine.status(), 'paused')
      await machine.resume()
      await memory.consumeMemory(spec.directory)
      return { machine, spec }
    },
    owns(machine) {
      machines.push(machine)
      return machine
    },
    async [Symbol.asyncDispose]() {
      for (const machine of machines) await machine.kill()
      clearInterval(alive)
      if (root === undefined) await rm(home, { recursive: true })
    },
  }
  await host.install()
  return host
}

/** Tells the guest of a machine that runs something, and returns its answer. */
export async function tell(machine: Machine, command: string): Promise<string> {
  const channel = await machine.openAgentChannel(AbortSignal.timeout(20_000))
  try {
    channel.write(`${command}\n`)
    for (let text = ''; ;) {
      const [data] = (await Promise.race([once(channel, 'data'), once(channel, 'close')])) as [Buffer | boolean | undefined]
      if (!Buffer.isBuffer(data)) throw new Error('the channel to the guest was closed')
      text += data.toString('utf8')
      if (text.endsWith('\n')) return text.trimEnd()
    }
  } finally {
    channel.destroy()
  }
}

/** What lies there but logs. */
export async function filesIn(directory: string): Promise<string[]> {
  return (await readdir(directory)).filter((name) => name !== 'logs').toSorted()
}
