// What the power-loss tests do with images, volumes and the registry, verb by verb, as story.ts does with instances.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { gzipSync } from 'node:zlib'
import { createClient, type Client } from '../../../src/client/client.ts'
import { run } from '../command.ts'
import { tarOf } from '../oci.ts'
import type { TestServer } from '../server.ts'
import { until } from '../until.ts'
import type { History } from './history.ts'
import { rootfsDigest } from './observe.ts'
import { change, type World } from './world.ts'

export class Stock {
  readonly #server: TestServer
  readonly #history: History

  constructor(server: TestServer, history: History) {
    this.#server = server
    this.#history = history
  }

  async createVolume(name: string): Promise<void> {
    await this.#history.do(`the volume ${name} is created`, async (before) => {
      const { id } = await this.#client().volumes.create({ name, size_gb: 1 })
      return change(before, 'volumes', name, { id, word: '' })
    })
  }

  /** A volume from an archive with one file. */
  async fillVolume(name: string, word: string): Promise<void> {
    await this.#history.do(`the volume ${name} is made of an archive`, async (before) => {
      const archive = gzipSync(tarOf([{ path: 'word', content: word }]))
      const { id } = await this.#client().volumes.createFromArchive({ name, size_gb: 1 }, chunksOf(archive))
      return change(before, 'volumes', name, { id, word })
    })
  }

  async deleteVolume(name: string): Promise<void> {
    await this.#history.do(`the volume ${name} is deleted`, async (before) => {
      await this.#client().volumes.delete(name)
      return change(before, 'volumes', name, undefined)
    })
  }

  /** `archive` is a file that skopeo wrote. */
  async importImage(name: string, archive: string): Promise<void> {
    await this.#history.do(`the image ${name} is imported`, async (before) => {
      await this.#client().images.import(name, chunksOf(await readFile(archive)))
      return { ...before, images: { ...before.images, ...(await imageNamed(this.#server, `docker.io/library/${name}`)) } }
    })
  }

  async deleteImage(name: string): Promise<void> {
    await this.#history.do(`the image ${name} is deleted`, async (before) => {
      await this.#client().images.delete(name)
      return change(before, 'images', `docker.io/library/${name}`, undefined)
    })
  }

  /** Pushes an OCI archive into the server's own registry, which makes an image of it. */
  async push(repository: string, archive: string): Promise<void> {
    const digest = await skopeo(['inspect', '--format', '{{.Digest}}', `oci-archive:${archive}`])
    await this.#history.do(`${repository} is pushed`, async (before) => {
      await skopeo([
        ...['copy', '--quiet', '--preserve-digests', '--dest-tls-verify=false', '--dest-creds', `tests:${this.#server.token}`],
        ...[`oci-archive:${archive}`, `docker://${new URL(this.#server.url).host}/${repository}:1`],
      ])
      const kept = change(before, 'pushed', repository, digest)
      const after = { ...kept, images: { ...before.images, ...(await imageNamed(this.#server, `docker.io/${repository}:1`)) } }
      // The image is made of what was pushed, after the push was answered to skopeo; if it is not there yet, a pull makes it.
      return { after, meanwhile: [kept] }
    })
  }

  #client(): Client {
    return createClient({ baseUrl: this.#server.url, token: () => this.#server.token })
  }
}

/** Waits until an image is ready and returns it with the digest of its root file system's bytes. */
export async function imageNamed(server: TestServer, name: string): Promise<World['images']> {
  let digest: string | undefined
  await until(`${name} is ready`, async () => {
    const image = (await server.client.images.list()).find((one) => one.name === name)
    assert.notEqual(image?.status, 'failed', image?.error ?? name)
    if (image?.status === 'ready') digest = image.digest
    return digest !== undefined
  })
  assert.ok(digest)
  return { [name]: await rootfsDigest(server, digest) }
}

async function skopeo(args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await run('skopeo', args)
  assert.equal(code, 0, stderr)
  return stdout.trim()
}

async function* chunksOf(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}
