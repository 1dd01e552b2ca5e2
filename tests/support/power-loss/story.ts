// What the power-loss tests do with instances and snapshots, verb by verb. Each verb does one thing, waits for the answer, and says what is
// promised from then on. Images and volumes: stock.ts.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import type { TestServer } from '../server.ts'
import type { Content, Guests } from './guests.ts'
import type { History } from './history.ts'
import { imageNamed, Stock } from './stock.ts'
import { change, changeInstance, emptyWorld, volumesOf, type Instance, type Snapshot, type World } from './world.ts'

type Target = 'Running' | 'Standby' | 'Stopped'

/** Environment of a server. */
export type Settings = Readonly<Record<string, string>>

/** A kind of server, and what its guests can be asked. */
export interface Product {
  readonly start: (settings: Settings) => Promise<TestServer>
  /** What each server is started with. */
  readonly settings: Settings
  /** How many servers with their machines the host bears at a time. */
  readonly serversAtOnce: number
  readonly guests: Guests
}

export class Story {
  readonly #server: TestServer
  readonly #settings: Settings
  readonly #guests: Guests
  readonly #history: History
  /** Memory of the guests that run. */
  readonly #live = new Map<string, string>()
  /** What is done with images and volumes. */
  readonly stock: Stock

  private constructor(server: TestServer, settings: Settings, guests: Guests, history: History) {
    this.#server = server
    this.#settings = settings
    this.#guests = guests
    this.#history = history
    this.stock = new Stock(server, history)
  }

  /** Begins with the start of a server on an empty directory. */
  static async begin(
    { start, guests }: Pick<Product, 'start' | 'guests'>,
    settings: Settings,
    history: History,
  ): Promise<{ readonly story: Story; readonly server: TestServer }> {
    const { promise, resolve } = Promise.withResolvers<TestServer>()
    await using undo = new AsyncDisposableStack()
    await history.do('a server starts for the first time', async () => {
      const server = undo.use(await start(settings))
      resolve(server)
      const after: World = { ...emptyWorld, images: await imageNamed(server, 'docker.io/hypeman/base:latest') }
      const secret = (await readFile(path.join(server.dataDirectory, 'jwt-secret'), 'utf8')).trim()
      return { after: { ...after, secret }, meanwhile: [after] }
    })
    const server = await promise
    undo.move()
    return { story: new Story(server, settings, guests, history), server }
  }

  async create(name: string): Promise<void> {
    await this.#history.do(`${name} is created`, async (before) => {
      const { id } = await this.#server.client.instances.create({ ...this.#guests.machine, name })
      await this.#guests.untilRunning(this.#server, id)
      this.#live.set(name, '')
      return change(before, 'instances', name, { id, state: 'Stopped', memory: '', disk: '', expiresAt: null, volumes: '' })
    })
  }

  /** The guest writes, and syncs its disk. */
  async write(name: string, content: Content): Promise<void> {
    await this.#history.do(`${name} writes ${content.disk}`, async (before) => {
      await this.#scribble(name, content)
      await this.#guests.sync(this.#server, this.#instance(name).id)
      return changeInstance(before, name, { disk: content.disk })
    })
  }

  /** Also of what the guest has written and not synced: `unsynced`. */
  async standby(name: string, unsynced?: Content): Promise<void> {
    await this.#history.do(`${name} goes to standby`, async (before) => {
      if (unsynced !== undefined) await this.#scribble(name, unsynced)
      await this.#server.client.instances.standby(this.#instance(name).id)
      const running = changeInstance(before, name, unsynced === undefined ? {} : { disk: unsynced.disk })
      return { after: changeInstance(running, name, { state: 'Standby', memory: this.#endLife(name) }), meanwhile: [running] }
    })
  }

  async restore(name: string): Promise<void> {
    await this.#history.do(`${name} is restored`, async (before) => {
      await this.#server.client.instances.restore(this.#instance(name).id)
      this.#live.set(name, this.#instance(name).memory)
      return changeInstance(before, name, { state: 'Stopped', memory: '' })
    })
  }

  async stop(name: string, unsynced?: Content): Promise<void> {
    await this.#history.do(`${name} is stopped`, async (before) => {
      if (unsynced !== undefined) await this.#scribble(name, unsynced)
      await this.#server.client.instances.stop(this.#instance(name).id)
      this.#live.delete(name)
      return changeInstance(before, name, { state: 'Stopped', memory: '', disk: unsynced?.disk ?? this.#instance(name).disk })
    })
  }

  async start(name: string): Promise<void> {
    await this.#history.do(`${name} is started`, async (before) => {
      await this.#server.client.instances.start(this.#instance(name).id, {})
      await this.#guests.untilRunning(this.#server, this.#instance(name).id)
      this.#live.set(name, '')
      return before
    })
  }

  async expire(name: string, expiresAt: string): Promise<void> {
    await this.#history.do(`${name} is told when to expire`, async (before) => {
      const updated = await this.#server.client.instances.update(this.#instance(name).id, { expires_at: expiresAt })
      return changeInstance(before, name, { expiresAt: updated.expires_at })
    })
  }

  /** Attaches a volume, to be read, to an instance that is stopped; `layer` is what the guest may write over it. */
  async attach(name: string, volume: string, layer: { readonly overlay?: true; readonly overlay_size?: string } = {}): Promise<void> {
    await this.#history.do(`the volume ${volume} is attached to ${name}`, async (before) => {
      const body = { id: this.#instance(name).id, mount_path: `/mnt/${volume}`, readonly: true, ...layer }
      const attached = await this.#server.client.instances.volumes.attach(volume, body)
      return changeInstance(before, name, { volumes: volumesOf(attached) })
    })
  }

  async detach(name: string, volume: string): Promise<void> {
    await this.#history.do(`the volume ${volume} is detached from ${name}`, async (before) => {
      const detached = await this.#server.client.instances.volumes.detach(volume, { id: this.#instance(name).id })
      return changeInstance(before, name, { volumes: volumesOf(detached) })
    })
  }

  /** Of a running guest also what it has written and not synced. */
  async snapshot(source: string, name: string, kind: Snapshot['kind'], unsynced?: Content): Promise<void> {
    await this.#history.do(`the snapshot ${name} of ${source} is taken`, async (before) => {
      const instance = this.#instance(source)
      if (unsynced !== undefined) await this.#scribble(source, unsynced)
      const { id } = await this.#server.client.instances.snapshots.create(instance.id, { kind, name })
      if (unsynced !== undefined) await this.#guests.sync(this.#server, instance.id)
      const disk = unsynced?.disk ?? instance.disk
      const written = changeInstance(before, source, { disk })
      const taken: Snapshot = { id, kind, source: instance.id, memory: this.#live.get(source) ?? instance.memory, disk }
      return { after: change(written, 'snapshots', name, taken), meanwhile: [written, change(before, 'snapshots', name, taken)] }
    })
  }

  async fork(snapshot: string, name: string, target: Target): Promise<void> {
    await this.#history.do(`${name} is forked from ${snapshot}, to be ${target}`, async (before) => {
      const { id, memory, disk, kind } = this.#snapshot(snapshot)
      const fork = await this.#server.client.snapshots.fork(id, { name, target_state: target })
      return this.#forked(before, name, { id: fork.id, memory: kind === 'Standby' ? memory : '', disk }, target)
    })
  }

  async forkRunning(source: string, name: string): Promise<void> {
    await this.#history.do(`${name} is forked from ${source} as it runs`, async (before) => {
      const { id, disk } = this.#instance(source)
      const fork = await this.#server.client.instances.fork(id, { name, from_running: true })
      return this.#forked(before, name, { id: fork.id, memory: this.#live.get(source) ?? '', disk }, 'Running')
    })
  }

  #forked(
    before: World,
    name: string,
    fork: Pick<Instance, 'id' | 'memory' | 'disk'>,
    target: Target,
  ): { after: World; meanwhile: World[] } {
    const as = (state: Instance['state']): World =>
      change(before, 'instances', name, { ...fork, state, memory: state === 'Standby' ? fork.memory : '', expiresAt: null, volumes: '' })
    if (target === 'Running') this.#live.set(name, fork.memory)
    // On its way to Running a fork is in standby for a moment, if its memory came along.
    return {
      after: as(target === 'Standby' ? 'Standby' : 'Stopped'),
      meanwhile: target === 'Running' && fork.memory !== '' ? [as('Standby')] : [],
    }
  }

  async restoreInPlace(name: string, snapshot: string, target: Target): Promise<void> {
    await this.#history.do(`${name} is put back to ${snapshot}, to be ${target}`, async (before) => {
      const { id, memory, disk } = this.#snapshot(snapshot)
      await this.#server.client.instances.snapshots.restore(id, { id: this.#instance(name).id, target_state: target })
      if (target === 'Running') this.#live.set(name, memory)
      const facts = target === 'Standby' ? ({ state: 'Standby', memory } as const) : ({ state: 'Stopped', memory: '' } as const)
      return changeInstance(before, name, { ...facts, disk, volumes: '' })
    })
  }

  /** A restore in place during which the server is killed; the next start undoes it. */
  async breakRestore(name: string, snapshot: string, fault: string): Promise<void> {
    await this.#history.do(`putting ${name} back to ${snapshot} is cut off at ${fault}, and undone`, async (before) => {
      await this.#server.restart({ ...this.#settings, HYPEMAN_FAULTS: `${fault}:kill` })
      const { client } = this.#server
      await assert.rejects(client.instances.snapshots.restore(this.#snapshot(snapshot).id, { id: this.#instance(name).id }))
      await this.#server.died()
      await this.#server.restart()
      return before
    })
  }

  async deleteInstance(name: string): Promise<void> {
    await this.#history.do(`${name} is deleted`, async (before) => {
      await this.#server.client.instances.delete(this.#instance(name).id)
      this.#live.delete(name)
      return change(before, 'instances', name, undefined)
    })
  }

  async deleteSnapshot(name: string): Promise<void> {
    await this.#history.do(`the snapshot ${name} is deleted`, async (before) => {
      await this.#server.client.snapshots.delete(this.#snapshot(name).id)
      return change(before, 'snapshots', name, undefined)
    })
  }

  async #scribble(name: string, content: Content): Promise<void> {
    await this.#guests.write(this.#server, this.#instance(name).id, content)
    this.#live.set(name, content.memory)
  }

  #endLife(name: string): string {
    const memory = this.#live.get(name) ?? ''
    this.#live.delete(name)
    return memory
  }

  #instance(name: string): Instance {
    const found = this.#history.world.instances[name]
    assert.ok(found, `there is no instance ${name}`)
    return found
  }

  #snapshot(name: string): Snapshot {
    const found = this.#history.world.snapshots[name]
    assert.ok(found, `there is no snapshot ${name}`)
    return found
  }
}
