// Images as a user of the official client has them: pulled from a real registry, pushed with the client's own helper, under several names, and gone while a machine runs from one.

import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, before, test } from 'node:test'
import type { Hypeman } from '@onkernel/hypeman'
import { extractPushConfig, pushImage, type OciImageSource } from '@onkernel/hypeman/lib/push'
import { run } from '../support/command.ts'
import { runMachine, shell, small, untilRunning } from '../support/machine.ts'
import { buildLayout } from '../support/oci.ts'
import { startRegistry, type TestRegistry } from '../support/registry.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { until } from '../support/until.ts'

const LIMIT_MS = 60_000
const archive = path.join(import.meta.dirname, '..', '..', '.assets', 'base.oci.tar')

let [server, registry, layout] = [] as unknown as [TestServer, TestRegistry, string]

before(async () => {
  layout = path.join(await mkdtemp(path.join(os.tmpdir(), 'hypeman-images-')), 'oci')
  await mkdir(layout)
  await run('tar', ['-x', '-f', archive], { cwd: layout })
  ;[server, registry] = await Promise.all([startServer(), startRegistry()])
})
after(async () => {
  await Promise.all([server[Symbol.asyncDispose](), registry[Symbol.asyncDispose]()])
  await rm(path.dirname(layout), { recursive: true })
})

/** The image when it is made; what it was called on the way. */
async function ready(name: string): Promise<{ readonly image: Hypeman.Image; readonly states: readonly string[] }> {
  const states = new Set<string>()
  let image: Hypeman.Image | undefined
  await until(
    `${name} is ready`,
    async () => {
      image = (await server.client.images.list()).find((one) => one.name === name)
      if (image !== undefined) states.add(image.status)
      assert.notEqual(image?.status, 'failed', image?.error ?? '')
      return image?.status === 'ready'
    },
    LIMIT_MS,
  )
  assert.ok(image)
  return { image, states: [...states] }
}

const namesOf = async (query: Hypeman.ImageListParams = {}): Promise<string[]> =>
  (await server.client.images.list(query)).map(({ name }) => name).filter((name) => !name.includes('hypeman/base'))

test('an image is pulled through its states, found by tag and digest and by its tags, and named once more without another pull', async () => {
  const { client } = server
  const app = path.join(path.dirname(layout), 'app')
  await buildLayout(app, { layers: [[{ path: 'file', content: 'x' }]], config: { Cmd: ['/file'] } })
  await registry.push(app, 'team/app:1')
  const name = `${registry.host}/team/app:1`
  const asked = await client.images.create({ name, tags: { team: 'a' } })
  assert.match(asked.digest, /^sha256:[0-9a-f]{64}$/)
  const { image, states } = await ready(name)
  assert.equal(image.digest, asked.digest)
  assert.ok(['pending', 'pulling', 'converting', 'ready'].includes(states[0] ?? ''))
  assert.ok((image.size_bytes ?? 0) > 0)
  assert.equal(image.platform, 'linux/amd64')
  assert.deepEqual(await namesOf({ tags: { team: 'a' } }), [name])
  assert.deepEqual(await namesOf({ tags: { team: 'b' } }), [])
  for (const ref of [name, `${registry.host}/team/app@${image.digest}`]) assert.equal((await client.images.get(ref)).digest, image.digest)

  const second = `${registry.host}/team/app:stable`
  assert.equal((await client.images.tag(name, { target: second })).digest, image.digest)
  assert.deepEqual((await namesOf()).toSorted(), [name, second])
  await client.images.delete(name)
  assert.deepEqual(await namesOf(), [second])
  assert.equal((await client.images.get(second)).status, 'ready')
  await assert.rejects(client.images.get(name), { status: 404 })
})

test("an image that was pushed with the client's own helper boots, and can be deleted under its machine, which goes on and starts again", async () => {
  const { client } = server
  await pushImage(extractPushConfig({ apiKey: server.token, baseURL: server.url }), await sourceOf(layout), 'pushed/app:1')
  const { image } = await ready('docker.io/pushed/app:1')
  const id = await runMachine(server, { ...small, name: 'from-push', image: 'pushed/app:1' })
  assert.equal((await client.instances.get(id)).image, image.name)
  await client.images.delete('pushed/app:1')
  await assert.rejects(client.images.get('pushed/app:1'), { status: 404 })
  await shell(server, id, 'echo kept > /root/note; sync')
  await client.instances.stop(id)
  await client.instances.start(id, {})
  await untilRunning(server, id)
  assert.equal((await shell(server, id, 'cat /root/note')).trim(), 'kept')
  await client.instances.delete(id)
})

/** An image of an OCI layout as the client's helper takes it. */
async function sourceOf(directory: string): Promise<OciImageSource> {
  const blob = (digest: string): Promise<Buffer> => readFile(path.join(directory, 'blobs', ...digest.split(':')))
  const json = async <T>(digest: string): Promise<T> => JSON.parse((await blob(digest)).toString()) as T
  const index = JSON.parse(await readFile(path.join(directory, 'index.json'), 'utf8')) as {
    readonly manifests: readonly { readonly digest: string }[]
  }
  const manifest = await json<{
    readonly config: { readonly digest: string }
    readonly layers: readonly { readonly digest: string; readonly size: number }[]
  }>(index.manifests[0]?.digest ?? '')
  return {
    config: () => blob(manifest.config.digest),
    layers: () => Promise.all(manifest.layers.map(async ({ digest, size }) => ({ digest, size, data: await blob(digest) }))),
  }
}
