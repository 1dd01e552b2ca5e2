// A server with things that no test touches, beside which something is broken on purpose; and what must hold of it afterwards in any case.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { closeSync, fstatSync, openSync, readdirSync, readFileSync, readSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import type { Hypeman } from '@onkernel/hypeman'
import { extentsOf } from '../../../src/files/extents.ts'
import type { FaultServer } from '../../support/fault-server/server.ts'
import type { TestServer } from '../../support/server.ts'
import { devicesBelow } from '../../support/host-network.ts'
import { until } from '../../support/until.ts'
import { vmmsOf } from '../../support/vmm.ts'
import { countVm } from '../../support/vm-count.ts'
import { qemuGuests, type Content, type Guests } from './guests.ts'

export type State = 'Running' | 'Standby' | 'Stopped'
export type Kind = 'Standby' | 'Stopped'

/** Until an instance that starts by itself has come up, or has failed to, in milliseconds. */
const SETTLES_MS = 120_000
/** Nothing tells that the last instance has settled: it is looked at this often, in milliseconds. */
const LOOK_EVERY_MS = 10
const bystanders = { running: 'bystander', asleep: 'sleeper' } as const
const untouched = { running: { memory: 'bm', disk: 'bd' }, asleep: { memory: 'sm', disk: 'sd' } } as const satisfies Record<string, Content>

/** A fault came after the answer: what the server does by itself afterwards has failed. */
export class LateFailure extends Error {}

/** An answer of the server that the client library has no part in. */
export class Refused extends Error {
  readonly code: string

  constructor(code: string, message: string) {
    super(message)
    this.code = code
  }
}

export class World {
  readonly faults: FaultServer
  readonly guests: Guests
  /** The snapshot that no test touches, of the bystander. */
  keptId = ''
  #frozen = new Map<string, string>()

  constructor(faults: FaultServer, guests: Guests) {
    this.faults = faults
    this.guests = guests
  }

  get server(): TestServer {
    return this.faults.server
  }

  get client(): Hypeman {
    return this.server.client
  }

  /** Makes the things that no test touches. */
  async furnish(): Promise<void> {
    await this.ensure(bystanders.running, 'Running', untouched.running)
    this.keptId = (await this.client.instances.snapshots.create(bystanders.running, { kind: 'Standby', name: 'kept' })).id
    await this.ensure(bystanders.asleep, 'Standby', untouched.asleep)
    await this.client.volumes.create({ name: 'shelf', size_gb: 1 })
    this.#frozen = this.#freeze()
  }

  /** Pids of the VMMs that no fault may end. */
  spared(): readonly number[] {
    return this.#recordedVmms()
      .filter(({ name }) => name === bystanders.running)
      .map(({ pid }) => pid)
  }

  /** `absent`, or the state that an instance is in. */
  async stateOf(name: string): Promise<string> {
    const found = (await this.client.instances.list()).find((one) => one.name === name)
    return found?.state ?? 'absent'
  }

  /** Makes an instance, or brings it there: in a state, with a content. */
  async ensure(name: string, state: State, content: Content, fields: object = {}): Promise<void> {
    if ((await this.stateOf(name)) === 'absent') await this.client.instances.create({ ...this.guests.body, ...fields, name })
    await this.wake(name)
    await this.guests.write(this.server, name, content)
    if (state === 'Standby') await this.client.instances.standby(name)
    if (state === 'Stopped') await this.client.instances.stop(name)
  }

  /** Brings an instance from whatever state to Running, and tells what it has there. */
  async wake(name: string): Promise<Content> {
    const state = await this.stateOf(name)
    if (state === 'Standby') await this.client.instances.restore(name)
    if (state === 'Stopped') await this.client.instances.start(name, {})
    await this.untilRunning(name)
    return await this.guests.read(this.server, name)
  }

  async untilRunning(name: string): Promise<void> {
    const { state } = await this.client.instances.wait(name, { state: 'Running', timeout: '2m' })
    if (state !== 'Running') {
      const { exit_message: message } = await this.client.instances.get(name)
      throw new LateFailure(`${name} is ${state} instead of Running: ${message ?? 'no reason given'}`)
    }
    if (this.guests === qemuGuests) countVm(`start of ${name}`)
  }

  async remove(...names: readonly string[]): Promise<void> {
    for (const name of names) if ((await this.stateOf(name)) !== 'absent') await this.client.instances.delete(name)
  }

  async snapshotOf(name: string): Promise<string | undefined> {
    return (await this.client.snapshots.list()).find((one) => one.name === name)?.id
  }

  /** Makes a snapshot of an instance with a content, unless it is there; the instance is then stopped. */
  async ensureSnapshot(source: string, name: string, kind: Kind, content: Content): Promise<void> {
    if ((await this.snapshotOf(name)) !== undefined) return
    await this.ensure(source, kind === 'Standby' ? 'Running' : 'Stopped', content)
    await this.client.instances.snapshots.create(source, { kind, name })
    if (kind === 'Standby') await this.client.instances.stop(source)
  }

  async removeSnapshot(name: string): Promise<void> {
    const id = await this.snapshotOf(name)
    if (id !== undefined) await this.client.snapshots.delete(id)
  }

  /** What a fork of a snapshot has; a snapshot without memory is started from its disk. */
  async forkedContent(snapshotId: string): Promise<Content> {
    await this.client.snapshots.fork(snapshotId, { name: 'probe', target_state: 'Running' })
    const content = await this.wake('probe')
    await this.client.instances.delete('probe')
    return content
  }

  /** Everything that the server lists, when nothing starts any more. */
  async listing(): Promise<readonly string[]> {
    const deadline = performance.now() + SETTLES_MS
    for (;;) {
      const instances = await this.client.instances.list()
      const images = await this.client.images.list()
      const restless = [
        ...instances
          .filter(({ state }) => state === 'Initializing' || state === 'Created' || state === 'Shutdown')
          .map(({ name, state }) => `${name} ${state}`),
        ...images.filter(({ status }) => status !== 'ready' && status !== 'failed').map(({ name, status }) => `${name} ${status}`),
      ]
      if (restless.length === 0) {
        const [snapshots, volumes] = [await this.client.snapshots.list(), await this.client.volumes.list()]
        return [
          ...instances.map(({ name, state }) => `instance ${name} ${state}`),
          ...snapshots.map(({ id }) => `snapshot ${id}`),
          ...volumes.map(({ id, name }) => `volume ${id} ${name}`),
          ...images.map(({ name, status, digest }) => `image ${name} ${status} ${digest}`),
        ].toSorted()
      }
      if (performance.now() > deadline) throw new Error(`it does not come to rest: ${restless.join(', ')}`)
      await delay(LOOK_EVERY_MS)
    }
  }

  /** What a removal that failed has left for the next start of the server. */
  async leftovers(): Promise<readonly string[]> {
    const { dataDirectory } = this.server
    const digests = new Set((await this.client.images.list()).map(({ digest }) => digest.replace('sha256:', '')))
    const unnamed = readdirSync(path.join(dataDirectory, 'images', 'rootfs')).filter((digest) => !digests.has(digest))
    const half = ['instances', 'images', 'schedules', 'pushes'].flatMap((directory) =>
      readdirSync(path.join(dataDirectory, directory), { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.tmp')),
    )
    return [...['staging', 'trash'].flatMap((directory) => readdirSync(path.join(dataDirectory, directory))), ...half, ...unnamed]
  }

  /** What must hold after everything: what no test touches is as it was, and there is nothing on the machine that is not listed. */
  async check(): Promise<void> {
    assert.equal(await this.stateOf(bystanders.running), 'Running')
    assert.deepEqual(await this.guests.read(this.server, bystanders.running), untouched.running)
    assert.equal(await this.stateOf(bystanders.asleep), 'Standby')
    assert.deepEqual(this.#freeze(), this.#frozen, 'what no test touches has changed on disk')
    await this.checkDisk()
    await this.#checkPromises()
    await this.#checkNetworks()
    this.#checkProcesses()
  }

  /** The snapshot and the instance in standby that no test touched can still be used. */
  async checkUse(): Promise<void> {
    assert.deepEqual(await this.forkedContent(this.keptId), untouched.running)
    assert.deepEqual(await this.wake(bystanders.asleep), untouched.asleep)
    await this.client.instances.standby(bystanders.asleep)
    this.#frozen = this.#freeze()
  }

  /** Directories and records are just those of what is listed. */
  async checkDisk(): Promise<void> {
    const { dataDirectory } = this.server
    const names = (...below: readonly string[]): string[] => readdirSync(path.join(dataDirectory, ...below)).toSorted()
    for (const directory of ['staging', 'trash']) assert.deepEqual(names(directory), [], `${directory}/ holds leftovers`)
    const [instances, snapshots] = [await this.client.instances.list(), await this.client.snapshots.list()]
    const [volumes, images] = [await this.client.volumes.list(), await this.client.images.list()]
    assert.deepEqual(names('instances'), instances.map(({ id }) => id).toSorted(), 'instances/ and the list differ')
    assert.deepEqual(names('snapshots'), snapshots.map(({ id }) => id).toSorted(), 'snapshots/ and the list differ')
    assert.deepEqual(names('volumes'), volumes.map(({ id }) => id).toSorted(), 'volumes/ and the list differ')
    const ready = images.filter(({ status }) => status === 'ready')
    assert.deepEqual(
      names('images', 'rootfs'),
      [...new Set(ready.map(({ digest }) => digest.replace('sha256:', '')))].toSorted(),
      'images/rootfs/',
    )
    assert.equal(names('images', 'references').length, ready.length, 'images/references/ and the list differ')
    for (const directory of [
      ...instances.map(({ id }) => ['instances', id]),
      ['images', 'references'],
      ['images', 'registry', 'repositories'],
      ['schedules'],
      ['pushes'],
    ])
      assert.deepEqual(
        names(...directory).filter((name) => name.endsWith('.tmp')),
        [],
        `${directory.join('/')} has half a record`,
      )
  }

  /** The host is promised to what is listed, and to nothing that failed. */
  async #checkPromises(): Promise<void> {
    const { cpu, disk, allocations, disk_breakdown: parts = {} } = await this.client.resources.get()
    const instances = await this.client.instances.list()
    assert.deepEqual(
      allocations.map(({ instance_id: id, cpu: vcpus = 0 }) => `${id} ${vcpus > 0}`).toSorted(),
      instances.map(({ id, state }) => `${id} ${state !== 'Stopped' && state !== 'Standby'}`).toSorted(),
      'what is promised and what runs differ',
    )
    const sum = (amounts: readonly number[]): number => amounts.reduce((total, amount) => total + amount, 0)
    assert.equal(cpu.allocated, sum(allocations.map(({ cpu: vcpus = 0 }) => vcpus)))
    assert.equal(parts.volumes_bytes, sum((await this.client.volumes.list()).map(({ size_gb: size }) => size * 1024 ** 3)))
    assert.equal(disk.allocated, sum(Object.values(parts)))
  }

  /** The host has devices and rules for machines that run, and for no others. */
  async #checkNetworks(): Promise<void> {
    const wanted = async (): Promise<string[]> =>
      (await this.client.instances.list()).flatMap(({ id, state, network }) =>
        network?.bandwidth_upload !== undefined && state !== 'Stopped' && state !== 'Standby' ? [id] : [],
      )
    const there = async (): Promise<string[]> =>
      (await devicesBelow(this.server.dataDirectory)).map(({ alias }) => alias.split(' ').at(-1) ?? '')
    // A machine that ended by itself is seen to be gone before its device is.
    await until('there is a device for each machine that has one', async () =>
      isDeepStrictEqual((await wanted()).toSorted(), (await there()).toSorted()),
    )
  }

  #checkProcesses(): void {
    const recorded = this.#recordedVmms().map(({ pid }) => pid)
    const running = vmmsOf(this.server)
    assert.deepEqual(
      running,
      running.filter((pid) => recorded.includes(pid)),
      'VMMs run that no instance names',
    )
    const others = childrenOf(this.server.pid).filter((pid) => !running.includes(pid))
    assert.deepEqual(
      others.map(commandOf).filter((command) => command !== ''),
      [],
      'a tool of the server still runs',
    )
  }

  #recordedVmms(): { readonly name: string; readonly pid: number }[] {
    const { dataDirectory } = this.server
    return readdirSync(path.join(dataDirectory, 'instances')).flatMap((id) => {
      const record = JSON.parse(readFileSync(path.join(dataDirectory, 'instances', id, 'record.json'), 'utf8')) as {
        readonly name: string
        readonly process: { readonly pid: number } | null
      }
      return record.process === null ? [] : [{ name: record.name, pid: record.process.pid }]
    })
  }

  /** The files, with their content, of what never changes by itself. */
  #freeze(): Map<string, string> {
    const { dataDirectory } = this.server
    const asleep = readdirSync(path.join(dataDirectory, 'instances')).find((id) => this.#nameOf(id) === bystanders.asleep) ?? ''
    return new Map(
      [
        path.join('instances', asleep),
        path.join('snapshots', this.keptId),
        ...readdirSync(path.join(dataDirectory, 'volumes'))
          .filter((id) => this.#volumeName(id) === 'shelf')
          .map((id) => path.join('volumes', id)),
      ].flatMap((directory) =>
        [...inventory(path.join(dataDirectory, directory))].map(([name, file]) => [path.join(directory, name), file] as const),
      ),
    )
  }

  #nameOf(id: string): string {
    return (JSON.parse(readFileSync(path.join(this.server.dataDirectory, 'instances', id, 'record.json'), 'utf8')) as { name: string }).name
  }

  #volumeName(id: string): string {
    return (JSON.parse(readFileSync(path.join(this.server.dataDirectory, 'volumes', id, 'volume.json'), 'utf8')) as { name: string }).name
  }

  /** The directory of an instance, as a whole. */
  async directoryOf(name: string): Promise<string> {
    return path.join(this.server.dataDirectory, 'instances', (await this.client.instances.get(name)).id)
  }
}

/** Every file of a tree but its logs and sockets: length and digest of its bytes. */
export function inventory(directory: string): Map<string, string> {
  const found = new Map<string, string>()
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || path.basename(entry.parentPath) === 'logs') continue
    const file = path.join(entry.parentPath, entry.name)
    found.set(path.relative(directory, file), fingerprint(file))
  }
  return found
}

const PIECE_BYTES = 1024 ** 2
const piece = Buffer.alloc(PIECE_BYTES)

/** Of the data alone: a disk is hardly more than holes. */
function fingerprint(file: string): string {
  const fd = openSync(file, 'r')
  try {
    const { size } = fstatSync(fd)
    const hash = createHash('sha256')
    for (const { from, to } of extentsOf(fd, size, file)) {
      hash.update(`${from} `)
      for (let at = from; at < to; at += PIECE_BYTES) {
        const length = readSync(fd, piece, 0, Math.min(PIECE_BYTES, to - at), at)
        hash.update(piece.subarray(0, length))
      }
    }
    return `${size} bytes, ${hash.digest('hex')}`
  } finally {
    closeSync(fd)
  }
}

function childrenOf(pid: number): number[] {
  return readdirSync(`/proc/${pid}/task`)
    .flatMap((task) => readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').split(' '))
    .filter((child) => child !== '')
    .map(Number)
}

/** Empty for a zombie or who has ended. */
function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim()
  } catch {
    return '' // it has ended meanwhile
  }
}
