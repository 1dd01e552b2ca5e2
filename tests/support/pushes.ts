// What tests of pushes begin with and wait for: an image that a server has from a registry, and the end of a push.

import { randomBytes } from 'node:crypto'
import { mkdtemp } from 'node:fs/promises'
import path from 'node:path'
import type { Hypeman } from '@onkernel/hypeman'
import { buildLayout, type BuiltImage, type LayerEntry } from './oci.ts'
import type { TestRegistry } from './registry.ts'
import type { TestServer } from './server.ts'
import { until } from './until.ts'

const LIMIT_MS = 60_000

/** Incompressible, so that what is sent is as long as what it holds. */
export function layer(name: string, bytes = 20_000): LayerEntry[] {
  return [{ path: name, content: randomBytes(bytes) }]
}

export interface PushWorld {
  readonly server: TestServer
  readonly source: TestRegistry
  /** For the layouts of images. */
  readonly home: string
}

/** Makes an image and has the server pull it. */
export async function pulledImage(
  { server, source, home }: PushWorld,
  name: string,
  layers: readonly LayerEntry[][],
): Promise<BuiltImage & { readonly name: string }> {
  const layout = path.join(await mkdtemp(path.join(home, 'image-')), 'oci')
  const built = await buildLayout(layout, { layers, config: { Cmd: ['/x'] } })
  await source.push(layout, name)
  await server.client.images.create({ name: `${source.host}/${name}` })
  await imageReady(server, `${source.host}/${name}`)
  return { ...built, name: `${source.host}/${name}` }
}

export async function imageReady(server: TestServer, name: string): Promise<void> {
  await until(`${name} is ready`, async () => (await server.client.images.get(encodeURIComponent(name))).status === 'ready', LIMIT_MS)
}

/** The push when it has ended. */
export async function endedPush(server: TestServer, { id }: Hypeman.Push): Promise<Hypeman.Push> {
  let push = await server.client.pushes.get(id)
  await until(
    `the push ${id} has ended`,
    async () => {
      push = await server.client.pushes.get(id)
      return push.status === 'pushed' || push.status === 'failed'
    },
    LIMIT_MS,
  )
  return push
}
