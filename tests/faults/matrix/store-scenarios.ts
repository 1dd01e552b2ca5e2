// Flows of volumes, images and the server's own registry.

import assert from 'node:assert/strict'
import { readFile, mkdtemp, rm } from 'node:fs/promises'
import { randomUUID } from 'node:crypto'
import os from 'node:os'
import path from 'node:path'
import { run } from '../../support/command.ts'
import { buildLayout, tarOf } from '../../support/oci.ts'
import { startRegistry } from '../../support/registry.ts'
import type { Scenario } from './scenario.ts'
import { LateFailure, Refused, type World } from './world.ts'

const vol = 'vol'
const removeVolume = async (world: World): Promise<void> => {
  if (await hasVolume(world)) await world.client.volumes.delete(vol)
}
const hasVolume = async (world: World): Promise<boolean> => (await world.client.volumes.list()).some(({ name }) => name === vol)

/** Its file system is whole, and holds the file. */
async function checkVolume(world: World, file: string | undefined): Promise<void> {
  const { id } = await world.client.volumes.get(vol)
  const disk = path.join(world.server.dataDirectory, 'volumes', id, 'disk.raw')
  const checked = await run('e2fsck', ['-f', '-n', disk])
  assert.equal(checked.code, 0, checked.stdout)
  if (file !== undefined) assert.equal((await run('debugfs', ['-R', `cat ${file}`, disk])).stdout, file)
}

export const createVolume: Scenario = {
  name: 'create a volume',
  prepare: removeVolume,
  act: async (world) => void (await world.client.volumes.create({ name: vol, size_gb: 1 })),
  async judge(world) {
    if (!(await hasVolume(world))) return 'as before'
    await checkVolume(world, undefined)
    return 'done'
  },
  clean: removeVolume,
}

const archive = tarOf([{ path: 'file', content: 'file' }])

export const createVolumeFromArchive: Scenario = {
  name: 'create a volume from an archive',
  prepare: removeVolume,
  act: async (world) => void (await world.client.volumes.createFromArchive(archive, { name: vol, size_gb: 1 })),
  async judge(world) {
    if (!(await hasVolume(world))) return 'as before'
    await checkVolume(world, 'file')
    return 'done'
  },
  clean: removeVolume,
}

export const deleteVolume: Scenario = {
  name: 'delete a volume',
  async prepare(world) {
    if (!(await hasVolume(world))) await world.client.volumes.createFromArchive(archive, { name: vol, size_gb: 1 })
  },
  act: (world) => world.client.volumes.delete(vol),
  async judge(world) {
    if (!(await hasVolume(world))) return 'done'
    await checkVolume(world, 'file')
    return 'as before'
  },
  clean: removeVolume,
  refused: ['done'],
}

interface BuiltImage {
  readonly directory: string
  readonly archive: Buffer
}

const built: BuiltImage[] = []

/** A new image: nobody has a blob of it. */
async function buildImage(): Promise<BuiltImage> {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'image-'))
  await buildLayout(path.join(directory, 'oci'), { layers: [[{ path: 'file', content: randomUUID() }]], config: { Cmd: ['/file'] } })
  const file = path.join(directory, 'image.tar')
  const { code, stderr } = await run('tar', ['-C', path.join(directory, 'oci'), '-cf', file, '.'])
  assert.equal(code, 0, stderr)
  const made = { directory, archive: await readFile(file) }
  built.push(made)
  return made
}

let one: Promise<BuiltImage> | undefined

/** The image that everything but pushes is about. */
function image(): Promise<BuiltImage> {
  one ??= buildImage()
  return one
}

export async function dropImages(): Promise<void> {
  for (const { directory } of built.splice(0)) await rm(directory, { recursive: true })
  one = undefined
}

export const imported = 'docker.io/library/imported:1'
const tagged = 'docker.io/library/tagged:1'
const pushed = 'docker.io/team/pushed:1'

async function statusOf(world: World, name: string): Promise<string | undefined> {
  return (await world.client.images.list()).find((one) => one.name === name)?.status
}

async function removeImages(world: World): Promise<void> {
  for (const { name } of await world.client.images.list())
    if (!name.includes('hypeman/base')) await world.client.images.delete(encodeURIComponent(name))
}

async function importNow(world: World): Promise<void> {
  const response = await fetch(`${world.server.url}/images/import?name=imported:1`, {
    method: 'POST',
    headers: { authorization: `Bearer ${world.server.token}`, 'content-type': 'application/x-tar' },
    body: new Uint8Array((await image()).archive),
  })
  const body = (await response.json()) as { readonly code?: string; readonly message?: string }
  if (!response.ok) throw new Refused(body.code ?? '', body.message ?? '')
}

/** Waits until nothing is converted any more. */
async function untilReady(world: World, name: string): Promise<void> {
  await world.listing()
  const status = await statusOf(world, name)
  if (status !== 'ready') throw new LateFailure(`the image is ${status ?? 'absent'}`)
}

const judgeImage =
  (name: string): Scenario['judge'] =>
  async (world) => {
    const status = await statusOf(world, name)
    if (status === undefined) return 'as before'
    if (status === 'failed') return 'failed'
    assert.equal(status, 'ready')
    const { digest } = (await world.client.images.list()).find((one) => one.name === name) ?? assert.fail()
    const file = path.join(world.server.dataDirectory, 'images', 'rootfs', digest.replace('sha256:', ''), 'rootfs.erofs')
    const checked = await run('fsck.erofs', [file])
    assert.equal(checked.code, 0, checked.stderr)
    return 'done'
  }

export const importImage: Scenario = {
  name: 'import an image',
  prepare: removeImages,
  async act(world) {
    await importNow(world)
    await untilReady(world, imported)
  },
  judge: judgeImage(imported),
  clean: removeImages,
  late: ['failed'],
}

let registry: ReturnType<typeof startRegistry> | undefined

export async function registryHost(): Promise<string> {
  registry ??= (async () => {
    const started = await startRegistry()
    await started.push(path.join((await image()).directory, 'oci'), 'pulled:1')
    return started
  })()
  return (await registry).host
}

async function pullName(): Promise<string> {
  return `${await registryHost()}/pulled:1`
}

export async function dropRegistry(): Promise<void> {
  await (await registry)?.[Symbol.asyncDispose]()
  registry = undefined
}

export const pullImage: Scenario = {
  name: 'pull an image',
  prepare: removeImages,
  async act(world) {
    const name = await pullName()
    await world.client.images.create({ name })
    await untilReady(world, name)
  },
  judge: async (world) => await judgeImage(await pullName())(world),
  clean: removeImages,
  late: ['failed'],
}

export const tagImage: Scenario = {
  name: 'give an image another name',
  async prepare(world) {
    await removeImages(world)
    await importNow(world)
    await untilReady(world, imported)
  },
  act: async (world) => void (await world.client.images.tag(encodeURIComponent(imported), { target: tagged })),
  judge: judgeImage(tagged),
  clean: removeImages,
}

export const deleteImage: Scenario = {
  name: 'delete an image',
  async prepare(world) {
    if ((await statusOf(world, imported)) === 'ready') return
    await importNow(world)
    await untilReady(world, imported)
  },
  async act(world) {
    await world.client.images.delete(encodeURIComponent(imported))
    await world.faults.reached('registry.collect/remove')
  },
  async judge(world) {
    const verdict = await judgeImage(imported)(world)
    return verdict === 'done' ? 'as before' : 'done'
  },
  clean: removeImages,
  refused: ['done'],
}

let toPush: BuiltImage | undefined

export const pushImage: Scenario = {
  name: 'push an image',
  async prepare(world) {
    await removeImages(world)
    toPush = await buildImage()
  },
  async act(world) {
    const { host } = new URL(world.server.url)
    const { code, stderr } = await run('skopeo', [
      ...['copy', '--quiet', '--dest-tls-verify=false', '--dest-creds', `tests:${world.server.token}`],
      ...[`oci:${path.join(toPush?.directory ?? '', 'oci')}:image`, `docker://${host}/team/pushed:1`],
    ])
    if (code !== 0) throw new Error(stderr)
    await untilReady(world, pushed)
  },
  judge: judgeImage(pushed),
  clean: removeImages,
  // A manifest that was committed is made an image when the server starts.
  refused: ['done', 'failed'],
  late: ['failed'],
}
