// An image service on a data directory of its own, without a server; and a look into the disks that it makes.

import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { pino } from 'pino'
import { dataLayout, type DataLayout } from '../../src/files/layout.ts'
import { makeDataDirectories, sweep } from '../../src/files/stage.ts'
import { createImageService, type Images, type ImageServiceOptions } from '../../src/images/index.ts'
import { buildLayout, type BuiltImage, type TestImage } from './oci.ts'
import { run } from './command.ts'

export interface TestImages extends AsyncDisposable {
  readonly images: Images
  readonly layout: DataLayout
  /** Everything that was logged, one line an entry. */
  readonly logged: readonly string[]
  /** A fresh directory for the test's own files. */
  directory(): Promise<string>
  /** Makes an OCI layout in a fresh directory. */
  build(image: TestImage): Promise<BuiltImage & { readonly layout: string }>
  /** Ends the service and starts another on the same data directory. */
  restart(): Promise<void>
}

export async function startImages(options: Partial<ImageServiceOptions> & { readonly dataDirectory?: string } = {}): Promise<TestImages> {
  const home = await mkdtemp(path.join(os.tmpdir(), 'images-'))
  const layout = options.layout ?? dataLayout(options.dataDirectory ?? path.join(home, 'data'))
  const logged: string[] = []
  const log = pino({ level: 'trace' }, { write: (line: string) => void logged.push(line) })
  await makeDataDirectories(layout)
  const start = async (): Promise<Images> => {
    await sweep(layout)
    return await createImageService({ log, platform: 'linux/amd64', inUse: () => false, baseArchive: undefined, ...options, layout })
  }
  let images = await start()
  let made = 0
  const directory = async (): Promise<string> => {
    const fresh = path.join(home, `test-${(made += 1)}`)
    await mkdir(fresh)
    return fresh
  }
  return {
    get images() {
      return images
    },
    layout,
    logged,
    directory,
    async build(image) {
      const built = path.join(await directory(), 'oci')
      return { ...(await buildLayout(built, image)), layout: built }
    },
    async restart() {
      await images.close()
      images = await start()
    },
    async [Symbol.asyncDispose]() {
      await images.close()
      await rm(home, { recursive: true })
    },
  }
}

/** Nothing staged, nothing half removed, and root file systems of just these digests. */
export async function assertOnDisk(layout: DataLayout, digests: readonly string[]): Promise<void> {
  assert.deepEqual(await readdir(layout.staging), [], 'staging is empty')
  assert.deepEqual(await readdir(layout.trash), [], 'trash is empty')
  const hexes = digests.map((digest) => digest.slice('sha256:'.length)).toSorted()
  assert.deepEqual((await readdir(layout.imageRootfs)).toSorted(), hexes)
}

export interface Mounted extends AsyncDisposable {
  readonly path: string
}

/** Mounts a root file system read-only, as a guest would. */
export async function mountErofs(file: string): Promise<Mounted> {
  const at = await mkdtemp(path.join(os.tmpdir(), 'erofs-'))
  const { code, stderr } = await run('mount', ['-t', 'erofs', '-o', 'loop,ro', file, at])
  if (code !== 0) throw new Error(`the root file system can't be mounted: ${stderr}`)
  return {
    path: at,
    async [Symbol.asyncDispose]() {
      await run('umount', [at])
      await rm(at, { recursive: true })
    },
  }
}

/** A small filesystem of its own, of `megabytes`. */
export async function mountSmallDisk(megabytes: number): Promise<Mounted> {
  const at = await mkdtemp(path.join(os.tmpdir(), 'small-disk-'))
  const { code, stderr } = await run('mount', ['-t', 'tmpfs', '-o', `size=${megabytes}m`, 'tmpfs', at])
  if (code !== 0) throw new Error(`a small disk can't be mounted: ${stderr}`)
  return {
    path: at,
    async [Symbol.asyncDispose]() {
      await run('umount', [at])
      await rm(at, { recursive: true })
    },
  }
}
