// A data directory of a driver's own, for tests of a driver without a server: directories, descriptions of machines, and an end to all processes that were started.

import { once } from 'node:events'
import { chmod, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { dataLayout, type DataLayout } from '../../src/files/layout.ts'
import { makeDataDirectories } from '../../src/files/stage.ts'
import type { Hypervisor, Machine, MachineSpec, MemorySnapshots } from '../../src/hypervisors/driver.ts'

/** Disposing ends the machines and removes all. */
export interface DriverHost extends AsyncDisposable {
  /** For programs and what else a test needs beside the data directory. */
  readonly home: string
  readonly layout: DataLayout
  /** A new, empty directory for an instance, a payload or something staged. */
  directory(): Promise<string>
  /** Counts a machine that the test got elsewhere among those to end. */
  owns<T extends Pick<Machine, 'kill'>>(machine: T): T
}

/** `root` is an existing directory, by default a temporary one. */
export async function driverHost(root?: string): Promise<DriverHost> {
  const home = root ?? (await mkdtemp(path.join(os.tmpdir(), 'host-')))
  const layout = dataLayout(path.join(home, 'data'))
  await makeDataDirectories(layout)
  // Their processes are not waited for by the event loop, and nothing else may be under way while one ends.
  const alive = setInterval(() => undefined, 60_000)
  const machines: Pick<Machine, 'kill'>[] = []
  let count = 0
  return {
    home,
    layout,
    async directory() {
      const directory = layout.instance(`m${(count += 1)}`)
      await mkdir(path.join(directory, 'logs'), { recursive: true })
      return directory
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
}

/** A small machine without a network. */
export function smallMachine(
  directory: string,
  { kernel, ...more }: Pick<MachineSpec, 'kernel' | 'memoryMib'> & Partial<Pick<MachineSpec, 'disks'>>,
): MachineSpec {
  return {
    instanceId: path.basename(directory).padEnd(24, 'x'),
    directory,
    vcpus: 1,
    kernel,
    initrd: kernel,
    disks: [],
    diskBytesPerSecond: null,
    network: null,
    ...more,
  }
}

/** A driver whose machines have guests of paper (tests/vmm-stand-in/paper-guest.ts): real processes, real API, real files, and a guest that is there in a moment and does what a test tells it. */
export interface PaperHost extends DriverHost {
  /** The program that drivers start: replacing it replaces the VMM of the host. */
  readonly program: string
  readonly driver: Hypervisor
  readonly memory: MemorySnapshots
  /** A line of a script that starts the stand-in with guests of paper. */
  readonly standIn: string
  /** Makes the program a shell script, which is given the arguments; by default one that starts the stand-in, in an environment of its own. */
  install(environment?: Readonly<Record<string, string>>): Promise<void>
  installScript(lines: string): Promise<void>
  spec(directory: string): MachineSpec
  /** A machine with a disk of its own that runs. */
  start(change?: Partial<MachineSpec>): Promise<{ readonly machine: Machine; readonly spec: MachineSpec }>
  /** A machine that goes on from a payload and runs. */
  fork(
    payload: string,
    change?: Partial<MachineSpec>,
    by?: MemorySnapshots,
  ): Promise<{ readonly machine: Machine; readonly spec: MachineSpec }>
}

const PAPER_DISK_BYTES = 8 * 1024 ** 2
const PAPER_MEMORY_MIB = 8
const never = new AbortController().signal

/** `name` is that of the program, `kernel` what its file holds, and `driverOf` makes a driver that starts `program`. */
export async function paperHost(
  { name, kernel: kernelBytes, root }: { readonly name: string; readonly kernel: Buffer | string; readonly root?: string | undefined },
  driverOf: (layout: DataLayout, program: string) => Hypervisor,
): Promise<PaperHost> {
  const host = await driverHost(root)
  const [program, kernel] = [path.join(host.home, name), path.join(host.home, 'vmlinux')]
  await writeFile(kernel, kernelBytes)
  const driver = driverOf(host.layout, program)
  const { memory } = driver
  if (memory === undefined) throw new Error('the driver has no memory snapshots')
  const starts = (environment: Readonly<Record<string, string>>): string => {
    const set = Object.entries({ STAND_IN_GUEST: 'paper', ...environment }).map(([variable, value]) => `${variable}='${value}'`)
    return `exec env ${set.join(' ')} '${path.resolve(import.meta.dirname, '../vmm-stand-in/bin', name)}' "$@"`
  }
  const paper: PaperHost = {
    ...host,
    program,
    driver,
    memory,
    standIn: starts({}),
    install: (environment = {}) => paper.installScript(starts(environment)),
    async installScript(lines) {
      await writeFile(program, `#!/bin/sh\n${lines}\n`)
      await chmod(program, 0o755)
    },
    spec: (directory) =>
      smallMachine(directory, { kernel, memoryMib: PAPER_MEMORY_MIB, disks: [{ id: 'rootfs', path: kernel, readOnly: true }] }),
    async start(change = {}) {
      const directory = await host.directory()
      await driver.createDisk(directory, PAPER_DISK_BYTES)
      const spec = { ...paper.spec(directory), ...change }
      return { machine: host.owns(await driver.boot(spec, never)), spec }
    },
    async fork(payload, change = {}, by = memory) {
      const spec = { ...paper.spec(await host.directory()), ...change }
      await driver.materialise(payload, spec.directory, true)
      const machine = host.owns(await by.restore(spec, await driver.stamp(), never))
      if ((await machine.status()) !== 'paused') throw new Error('a restored machine does not come up paused')
      await machine.resume()
      await by.consumeMemory(spec.directory)
      return { machine, spec }
    },
  }
  await paper.install()
  return paper
}

/** Tells the guest of paper of a machine that runs something, and returns its answer. */
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

/** What lies in a directory but logs and these. */
export async function filesIn(directory: string, except: readonly string[] = []): Promise<string[]> {
  return (await readdir(directory)).filter((name) => name !== 'logs' && !except.includes(name)).toSorted()
}
