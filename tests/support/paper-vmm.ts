// Cloud Hypervisor's stand-in with guests of paper (tests/vmm-stand-in/paper-guest.ts): a real process, real API, real files, and a guest that is there in a moment and does what a test tells it.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { chmod, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import type { Duplex } from 'node:stream'
import { dataLayout, type DataLayout } from '../../src/files/layout.ts'
import { makeDataDirectories } from '../../src/files/stage.ts'
import { createCloudHypervisorDriver } from '../../src/hypervisors/cloud-hypervisor/index.ts'
import type { Hypervisor, Machine, MachineSpec, MemorySnapshots } from '../../src/hypervisors/driver.ts'

const standIn = path.resolve(import.meta.dirname, '../vmm-stand-in/bin/cloud-hypervisor')
const DISK_BYTES = 8 * 1024 ** 2

export interface PaperHost extends AsyncDisposable {
  readonly layout: DataLayout
  /** The program that drivers start: replacing it replaces the VMM of the host. */
  readonly program: string
  readonly driver: Hypervisor
  readonly memory: MemorySnapshots
  /** A driver with other knowledge of the host. */
  driverWith(options: { readonly whyNotOnDemand?: string; readonly command?: string; readonly pageHoles?: boolean }): Hypervisor
  /** Makes the program the stand-in, in an environment of its own. */
  install(environment?: Readonly<Record<string, string>>): Promise<void>
  /** Makes the program a shell script, which is given the arguments. */
  installScript(lines: string): Promise<void>
  /** A new, empty directory for an instance, a payload or something staged. */
  directory(): Promise<string>
  spec(directory: string): MachineSpec
  /** A machine with a disk of its own that runs. */
  start(change?: Partial<MachineSpec>): Promise<{ readonly machine: Machine; readonly spec: MachineSpec }>
  /** Counts a machine that the test got elsewhere among those to end. */
  owns<T extends Machine>(machine: T): T
}

export async function paperHost(): Promise<PaperHost> {
  const home = await mkdtemp(path.join(os.tmpdir(), 'paper-'))
  const layout = dataLayout(path.join(home, 'data'))
  await makeDataDirectories(layout)
  const program = path.join(home, 'cloud-hypervisor')
  const kernel = path.join(home, 'vmlinux')
  await writeFile(kernel, 'paper')
  // Their processes are not waited for by the event loop, and nothing else may be under way while one ends.
  const alive = setInterval(() => undefined, 60_000)
  const machines: Machine[] = []
  let count = 0
  const driverWith: PaperHost['driverWith'] = ({ whyNotOnDemand, command = program, pageHoles }) =>
    createCloudHypervisorDriver({
      layout,
      command,
      whyNoKvm: () => Promise.resolve(undefined),
      whyNotOnDemand,
      ...(pageHoles === undefined ? {} : { pageHoles: () => Promise.resolve(pageHoles) }),
      kernelImage: (image) => Promise.resolve(image),
    })
  const driver = driverWith({})
  assert.ok(driver.memory)
  const host: PaperHost = {
    layout,
    program,
    driver,
    memory: driver.memory,
    driverWith,
    install(environment = {}) {
      const set = Object.entries({ STAND_IN_GUEST: 'paper', ...environment }).map(([name, value]) => `${name}='${value}'`)
      return host.installScript(`exec env ${set.join(' ')} '${standIn}' "$@"`)
    },
    async installScript(lines) {
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
      return { machine: host.owns(await driver.boot(spec, new AbortController().signal)), spec }
    },
    owns(machine) {
      machines.push(machine)
      return machine
    },
    async [Symbol.asyncDispose]() {
      for (const machine of machines) await machine.kill()
      clearInterval(alive)
      await rm(home, { recursive: true })
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
    return await lineOf(channel)
  } finally {
    channel.destroy()
  }
}

async function lineOf(channel: Duplex): Promise<string> {
  for (let text = ''; ;) {
    const [data] = (await Promise.race([once(channel, 'data'), once(channel, 'close')])) as [Buffer?]
    if (data === undefined || typeof data === 'boolean') throw new Error('the channel to the guest was closed')
    text += data.toString('utf8')
    if (text.endsWith('\n')) return text.trimEnd()
  }
}

/** What lies there but sockets and logs. */
export async function filesIn(directory: string): Promise<string[]> {
  const others = ['ch.sock', 'vsock.sock', 'logs']
  return (await readdir(directory)).filter((name) => !others.includes(name)).toSorted()
}
