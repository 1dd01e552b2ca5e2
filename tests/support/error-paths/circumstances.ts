// What a request of error paths is made under: a full disk, a taken port, another request that is not over.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import http from 'node:http'
import { createServer, type AddressInfo } from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { dataLayout } from '../../../src/files/layout.ts'
import { signToken } from '../../../src/platform/token.ts'
import type { Order } from '../fault-server/order.ts'
import { buildIndex, type TestImage } from '../oci.ts'
import { standIn } from '../stand-in-hypervisor/server.ts'
import { until } from '../until.ts'
import { vmmsOf } from '../vmm.ts'
import { ask, type Answer, type Ask } from './ask.ts'
import { MOST_STREAMS, type ErrorWorld } from './world.ts'

export type Case = (world: ErrorWorld) => Promise<Answer>

/** A request, sent as it is. */
export const send =
  (method: string, path: string | ((world: ErrorWorld) => string), body?: unknown, more: Ask = {}): Case =>
  (world) =>
    ask(world.server, method, typeof path === 'string' ? path : path(world), { ...more, ...(body === undefined ? {} : { body }) })

/** With the token of a subject that has made nothing here. */
export const sendAsAnother =
  (method: string, path: string | ((world: ErrorWorld) => string), body: unknown): Case =>
  async (world) => {
    const secret = (await readFile(dataLayout(world.server.dataDirectory).secret, 'utf8')).trim()
    return send(method, path, body, { token: signToken(secret, { subject: 'another', ttlSeconds: 60 }) })(world)
  }

/** While a fault holds. */
const under =
  (order: Omit<Order, 'id' | 'spared'>, act: Case): Case =>
  async (world) => {
    world.faults.order({ ...order, spared: vmmsOf(world.server) })
    try {
      return await act(world)
    } finally {
      world.faults.rescind()
    }
  }

export const onFullDisk = (act: Case): Case => under({ at: { call: 1 }, what: 'enospc', lasting: true }, act)
export const onFailingDisk = (act: Case): Case => under({ at: { call: 1 }, what: 'eio', lasting: true }, act)
/** The VMM ends as soon as a step is over. */
export const whenItsVmmEndsAfter = (step: string, act: Case): Case =>
  under({ at: { step, when: 'after' }, what: 'vmm', lasting: true }, act)

/** While another request waits at a step, which then goes on. */
export async function during(world: ErrorWorld, step: string, other: Case, act: Case): Promise<Answer> {
  world.faults.order({ at: { step, when: 'before' }, what: 'hold', lasting: false, spared: [] })
  const held = other(world)
  try {
    await world.faults.reached(step)
    return await act(world)
  } finally {
    world.faults.rescind()
    const { status, text } = await held
    assert.ok(status < 300, text)
  }
}

/** While a snapshot of `stopped` is taken, which holds it. */
export const whileHeld =
  (act: Case): Case =>
  async (world) => {
    const { client } = world.server
    try {
      return await during(
        world,
        'snapshot.create/stage',
        send('POST', '/instances/stopped/snapshots', { kind: 'Stopped', name: 'passing' }),
        act,
      )
    } finally {
      for (const { id, name } of await client.snapshots.list()) if (name === 'passing') await client.snapshots.delete(id)
    }
  }

/** While a push is held at a step. Nobody listens where it goes. */
export const whilePushed =
  (step: string, pushed: object, act: Case): Case =>
  (world) =>
    during(world, step, send('POST', '/pushes', pushed), act)

/** While something listens on a port, which `body` may name. */
export const withTakenPort =
  (
    act: (world: ErrorWorld, port: number) => Promise<Answer>,
    before: (world: ErrorWorld, port: number) => Promise<void> = async () => undefined,
  ): Case =>
  async (world) => {
    const listener = createServer()
    const listen = async (port: number): Promise<number> => {
      listener.listen(port, '127.0.0.1')
      await once(listener, 'listening')
      return (listener.address() as AddressInfo).port
    }
    const close = async (): Promise<void> => {
      listener.close()
      await once(listener, 'close')
    }
    const port = await listen(0)
    await close()
    await before(world, port)
    await listen(port)
    try {
      return await act(world, port)
    } finally {
      await close()
    }
  }

export const published = (port: number): object => ({
  network: { enabled: true, ports: [{ host_port: port, guest_port: 80, host_address: '127.0.0.1' }] },
})

/** An image as a file of the OCI layout, under an index of its platform. */
export async function archiveOf(image: TestImage): Promise<Buffer> {
  const layout = await mkdtemp(path.join(os.tmpdir(), 'hypeman-layout-'))
  try {
    await buildIndex(layout, [image])
    return execFileSync('tar', ['-c', '.'], { cwd: layout })
  } finally {
    await rm(layout, { recursive: true })
  }
}

/** While an image, which no other is like, is unpacked as `slow/image:1`. */
export const whileUnpacked =
  (act: Case): Case =>
  async (world) => {
    const body = await archiveOf({ layers: [[{ path: 'file', content: randomUUID() }]] })
    world.faults.order({ at: { step: 'image.convert/unpack', when: 'before' }, what: 'hold', lasting: false, spared: [] })
    try {
      const imported = await ask(world.server, 'POST', '/images/import?name=slow%2Fimage%3A1', { body })
      assert.equal(imported.status, 202, imported.text)
      return await act(world)
    } finally {
      world.faults.rescind()
    }
  }

/** Takes no more requests. */
export const tired: http.RequestListener = (_request, response) => response.writeHead(429).end()

/** Has one manifest for every image. */
const serving =
  (type: string, manifest: object): http.RequestListener =>
  ({ url = '' }, response) => {
    if (url.includes('/manifests/')) response.setHeader('content-type', type).end(JSON.stringify(manifest))
    else response.end('{}')
  }

const indexType = 'application/vnd.oci.image.index.v1+json'
const manifestType = 'application/vnd.oci.image.manifest.v1+json'

/** Has images for a platform that no host here is. */
export const ofAnotherPlatform = serving(indexType, {
  ...{ schemaVersion: 2, mediaType: indexType },
  manifests: [{ mediaType: manifestType, digest: `sha256:${'0'.repeat(64)}`, size: 1, platform: { os: 'linux', architecture: 's390x' } }],
})

/** Has manifests that say nothing. */
export const nonsense = serving(manifestType, { schemaVersion: 2, mediaType: manifestType, layers: 'some' })

/** While there is such a registry, of which `act` is given the name of an image. */
export const withRegistry =
  (listener: http.RequestListener, act: (image: string) => Case): Case =>
  async (world) => {
    const registry = http.createServer(listener)
    registry.listen(0, '127.0.0.1')
    await once(registry, 'listening')
    try {
      return await act(`127.0.0.1:${(registry.address() as AddressInfo).port}/some/image:1`)(world)
    } finally {
      registry.closeAllConnections()
      registry.close()
    }
  }

/** While a schedule of `stopped` takes a snapshot. */
export const whileScheduled =
  (act: Case): Case =>
  async (world) => {
    const { client } = world.server
    const step = 'snapshot.create/stage'
    world.faults.order({ at: { step, when: 'before' }, what: 'hold', lasting: false, spared: [] })
    try {
      await client.instances.snapshotSchedule.update('stopped', { interval: '1s', retention: { max_count: 1 } })
      await until('the schedule runs', async () => {
        await world.faults.reached(step)
        const schedule = await client.instances.snapshotSchedule.get('stopped')
        return new Date(schedule.next_run_at).getTime() < Date.now()
      })
      return await act(world)
    } finally {
      world.faults.rescind()
      await client.instances.snapshotSchedule.delete('stopped')
      for (const { id, name } of await client.snapshots.list())
        if (name?.startsWith('scheduled') === true) await client.snapshots.delete(id)
    }
  }

/** While an instance has all processors that the others leave. */
export const onFullHost =
  (act: Case): Case =>
  async (world) => {
    const { client } = world.server
    const { cpu } = await client.resources.get()
    const { id } = await client.instances.create({ ...standIn, name: 'hog', vcpus: cpu.available })
    try {
      await client.instances.wait(id, { state: 'Running', timeout: '1m' })
      return await act(world)
    } finally {
      await client.instances.delete(id)
    }
  }

/** While the caller has as many streams open as one may have. */
export const whileStreaming =
  (act: Case): Case =>
  async (world) => {
    const { url, token } = world.server
    const end = new AbortController()
    // Held on to: fetch ends an answer that nobody reads as soon as it is collected.
    const held = new Set<unknown>()
    try {
      for (let open = 0; open < MOST_STREAMS; open += 1) {
        const stream = await fetch(`${url}/instances/runs/events?follow=true`, {
          headers: { authorization: `Bearer ${token}`, accept: 'text/event-stream' },
          signal: end.signal,
        })
        assert.equal(stream.status, 200)
        held.add(stream.body?.getReader())
      }
      return await act(world)
    } finally {
      end.abort()
      held.clear()
      // Until the server has seen them go, others would be refused.
      await until('a stream can be opened again', async () => {
        const { status } = await ask(world.server, 'GET', '/instances/runs/events')
        return status === 200
      })
    }
  }
