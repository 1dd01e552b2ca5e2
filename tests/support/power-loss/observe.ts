// Looks at everything that a server has, by using it: instances are started or restored, snapshots forked, files read.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import { pipeline } from 'node:stream/promises'
import { run } from '../command.ts'
import { digestOf } from '../oci.ts'
import type { TestServer } from '../server.ts'
import type { Guests } from './guests.ts'
import { digestOfTree } from './tree-digest.ts'
import { volumesOf, type Instance, type Snapshot, type World } from './world.ts'

/** What is asked of a server. */
export type Server = Pick<TestServer, 'dataDirectory' | 'url' | 'token' | 'client'>

type Content = Pick<Instance, 'memory' | 'disk'>

/** Looks at one server after the other. */
export class Observer {
  readonly #guests: Guests
  /** What was found in directories, by their digest: it is not looked for twice. */
  readonly #known = new Map<string, Promise<unknown>>()

  constructor(guests: Guests) {
    this.#guests = guests
  }

  /** What is there. Fails if something is there that is no whole: half made, unreadable, or under another's name. */
  async observe(server: Server): Promise<World> {
    for (const directory of ['staging', 'trash']) assert.deepEqual(await readdir(path.join(server.dataDirectory, directory)), [], directory)
    return {
      images: await imagesOf(server),
      pushed: await pushedTo(server),
      volumes: await this.#volumesOf(server),
      snapshots: await this.#snapshotsOf(server),
      instances: await this.#instancesOf(server),
      secret: (await readFile(path.join(server.dataDirectory, 'jwt-secret'), 'utf8')).trim(),
    }
  }

  async #instancesOf(server: Server): Promise<World['instances']> {
    const found: [string, Instance][] = []
    for (const instance of await server.client.instances.list()) {
      const { id, name, state, expires_at: expiresAt } = instance
      assert.ok(state === 'Stopped' || state === 'Standby', `${name} is ${state}`)
      const content = await this.#once(path.join(server.dataDirectory, 'instances', id), async () => {
        if (state === 'Standby') await server.client.instances.restore(id)
        else await server.client.instances.start(id, {})
        return await this.#contentOf(server, id, name)
      })
      found.push([name, { id, state, ...content, expiresAt: expiresAt ?? null, volumes: volumesOf(instance) }])
    }
    return byName(found)
  }

  async #snapshotsOf(server: Server): Promise<World['snapshots']> {
    const found: [string, Snapshot][] = []
    for (const { id, name, kind, source_instance_id: source } of await server.client.snapshots.list()) {
      const content = await this.#once(path.join(server.dataDirectory, 'snapshots', id), async () => {
        const fork = await server.client.snapshots.fork(id, { name: 'probe', target_state: 'Running' })
        const forked = await this.#contentOf(server, fork.id, 'probe')
        await server.client.instances.delete(fork.id)
        return forked
      })
      found.push([name ?? '', { id, kind, source, ...content }])
    }
    return byName(found)
  }

  /** The content of a guest that was started; it must know who it is. */
  async #contentOf(server: Server, id: string, name: string): Promise<Content> {
    await this.#guests.untilRunning(server, id)
    const { hostname, ...content } = await this.#guests.read(server, id)
    assert.equal(hostname, name, 'the guest has the identity of another')
    return content
  }

  async #volumesOf(server: Server): Promise<World['volumes']> {
    const found: [string, World['volumes'][string]][] = []
    for (const { id, name } of await server.client.volumes.list()) {
      const directory = path.join(server.dataDirectory, 'volumes', id)
      found.push([name, { id, word: await this.#once(directory, () => wordOn(path.join(directory, 'disk.raw'))) }])
    }
    return byName(found)
  }

  async #once<T>(directory: string, look: () => Promise<T>): Promise<T> {
    const digest = digestOfTree(directory)
    const found = (this.#known.get(digest) as Promise<T> | undefined) ?? look()
    this.#known.set(digest, found)
    return await found
  }
}

/** The content of the file `word` on a volume, which must be a sound file system. */
async function wordOn(disk: string): Promise<string> {
  const check = await run('e2fsck', ['-fn', disk])
  assert.equal(check.code, 0, `${check.stdout}${check.stderr}`)
  return (await run('debugfs', ['-R', 'cat word', disk])).stdout
}

async function imagesOf(server: Server): Promise<World['images']> {
  const found: [string, string][] = []
  for (const { name, digest, status } of await server.client.images.list()) {
    assert.equal(status, 'ready', name)
    found.push([name, await rootfsDigest(server, digest)])
  }
  return byName(found)
}

/** Digest of the bytes of an image's root file system. */
export async function rootfsDigest({ dataDirectory }: Pick<TestServer, 'dataDirectory'>, image: string): Promise<string> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(path.join(dataDirectory, 'images', 'rootfs', image.slice('sha256:'.length), 'rootfs.erofs')), hash)
  return hash.digest('hex')
}

/** What the registry gives out under `<repository>:1`, and all that it names. */
async function pushedTo(server: Server): Promise<World['pushed']> {
  const directory = path.join(server.dataDirectory, 'images', 'registry', 'repositories')
  const found: [string, string][] = []
  for (const file of await readdir(directory)) {
    const { name } = JSON.parse(await readFile(path.join(directory, file), 'utf8')) as { readonly name: string }
    const manifest = await fetched(server, `/v2/${name}/manifests/1`)
    const { config, layers } = JSON.parse(manifest.toString()) as { readonly config: Blob; readonly layers: readonly Blob[] }
    for (const { digest } of [config, ...layers]) assert.equal(digestOf(await fetched(server, `/v2/${name}/blobs/${digest}`)), digest)
    found.push([name, digestOf(manifest)])
  }
  return byName(found)
}

interface Blob {
  readonly digest: string
}

async function fetched(server: Server, url: string): Promise<Buffer> {
  const credentials = Buffer.from(`tests:${server.token}`).toString('base64')
  const answer = await fetch(`${server.url}${url}`, { headers: { authorization: `Basic ${credentials}`, accept: '*/*' } })
  const body = Buffer.from(await answer.arrayBuffer())
  assert.equal(answer.status, 200, `${url}: ${body.toString()}`)
  return body
}

function byName<T>(found: readonly (readonly [string, T])[]): Readonly<Record<string, T>> {
  const names = found.map(([name]) => name)
  assert.equal(new Set(names).size, names.length, `a name is taken twice: ${names.join(', ')}`)
  return Object.fromEntries(found)
}
