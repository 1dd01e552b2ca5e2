// Makes OCI image layouts entry by entry, so that a test says exactly what is in each layer: whiteouts, devices, attributes, and what no builder would write.

import { createHash } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { gzipSync, zstdCompressSync } from 'node:zlib'

const typeFlags = { file: '0', hardlink: '1', symlink: '2', character: '3', block: '4', directory: '5', fifo: '6' } as const

export interface LayerEntry {
  readonly path: string
  /** `file` if absent. */
  readonly type?: keyof typeof typeFlags
  readonly content?: string | Buffer
  readonly mode?: number
  readonly uid?: number
  readonly gid?: number
  /** Seconds since 1970. */
  readonly mtime?: number
  readonly linkTo?: string
  /** Major and minor number. */
  readonly device?: readonly [number, number]
  readonly attributes?: Readonly<Record<string, string>>
  /** Further records of the pax header. */
  readonly pax?: Readonly<Record<string, string>>
}

export interface TestImage {
  readonly layers: readonly (readonly LayerEntry[])[]
  readonly compression?: 'gzip' | 'zstd' | 'none'
  /** As in an image config: `Cmd`, `Env`, … */
  readonly config?: object
  readonly architecture?: string
  /** Changes a layer's bytes after they were compressed, before they get their digest. */
  readonly spoil?: (layer: Buffer) => Buffer
}

export interface BuiltImage {
  readonly digest: string
  readonly layerDigests: readonly string[]
}

const mediaTypes = { manifest: 'application/vnd.oci.image.manifest.v1+json', config: 'application/vnd.oci.image.config.v1+json' }

/** Writes an image as an OCI layout named `image`. */
export async function buildLayout(layout: string, image: TestImage): Promise<BuiltImage> {
  const built = await buildManifest(layout, image)
  await writeIndex(layout, [{ ...built.descriptor, annotations: { 'org.opencontainers.image.ref.name': 'image' } }])
  return built
}

/** Writes images of several platforms as one OCI layout whose `image` is an index. */
export async function buildIndex(layout: string, images: readonly TestImage[]): Promise<readonly BuiltImage[]> {
  const built: (BuiltImage & { descriptor: object })[] = []
  for (const image of images) built.push(await buildManifest(layout, image))
  const manifests = built.map(({ descriptor }, at) => ({
    ...descriptor,
    platform: { os: 'linux', architecture: images[at]?.architecture ?? 'amd64' },
  }))
  const mediaType = 'application/vnd.oci.image.index.v1+json'
  const index = await writeBlob(layout, Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType, manifests })))
  await writeIndex(layout, [{ mediaType, ...index, annotations: { 'org.opencontainers.image.ref.name': 'image' } }])
  return built
}

async function buildManifest(layout: string, image: TestImage): Promise<BuiltImage & { descriptor: object }> {
  const { compression = 'gzip', spoil = (layer: Buffer) => layer } = image
  const plain = image.layers.map(tarOf)
  const layers = []
  for (const tar of plain) {
    const compressed = compression === 'gzip' ? gzipSync(tar) : compression === 'zstd' ? zstdCompressSync(tar) : tar
    const suffix = compression === 'none' ? '' : `+${compression}`
    layers.push({ mediaType: `application/vnd.oci.image.layer.v1.tar${suffix}`, ...(await writeBlob(layout, spoil(compressed))) })
  }
  const config = {
    created: '2024-01-01T00:00:00Z',
    os: 'linux',
    architecture: image.architecture ?? 'amd64',
    config: image.config ?? {},
    rootfs: { type: 'layers', diff_ids: plain.map(digestOf) },
    history: [],
  }
  const manifest = {
    schemaVersion: 2,
    mediaType: mediaTypes.manifest,
    config: { mediaType: mediaTypes.config, ...(await writeBlob(layout, Buffer.from(JSON.stringify(config)))) },
    layers,
  }
  const blob = await writeBlob(layout, Buffer.from(JSON.stringify(manifest)))
  return { digest: blob.digest, layerDigests: layers.map(({ digest }) => digest), descriptor: { mediaType: mediaTypes.manifest, ...blob } }
}

async function writeIndex(layout: string, manifests: readonly object[]): Promise<void> {
  await writeFile(path.join(layout, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }))
  await writeFile(path.join(layout, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests }))
}

async function writeBlob(layout: string, bytes: Buffer): Promise<{ digest: string; size: number }> {
  const digest = digestOf(bytes)
  await mkdir(path.join(layout, 'blobs', 'sha256'), { recursive: true })
  await writeFile(path.join(layout, 'blobs', 'sha256', digest.slice('sha256:'.length)), bytes)
  return { digest, size: bytes.length }
}

export function digestOf(bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}

/** A tar archive of the entries, in their order. */
export function tarOf(entries: readonly LayerEntry[]): Buffer {
  return Buffer.concat([...entries.flatMap(entryOf), Buffer.alloc(1024)])
}

function entryOf(entry: LayerEntry): Buffer[] {
  const pax = { ...entry.pax }
  for (const [name, value] of Object.entries(entry.attributes ?? {})) pax[`SCHILY.xattr.${name}`] = value
  const before =
    Object.keys(pax).length === 0 ? [] : memberOf({ path: 'pax-header' }, 'x', Buffer.from(Object.entries(pax).map(paxRecord).join('')))
  return [...before, ...memberOf(entry, typeFlags[entry.type ?? 'file'], Buffer.from(entry.content ?? ''))]
}

function paxRecord([key, value]: [string, string]): string {
  const rest = ` ${key}=${value}\n`
  let length = Buffer.byteLength(rest)
  while (length !== Buffer.byteLength(rest) + String(length).length) length = Buffer.byteLength(rest) + String(length).length
  return `${length}${rest}`
}

function memberOf(entry: LayerEntry, flag: string, content: Buffer): Buffer[] {
  const header = Buffer.alloc(512)
  const octal = (value: number, at: number, width: number): unknown => header.write(`${value.toString(8).padStart(width - 1, '0')}\0`, at)
  header.write(entry.path, 0, 100)
  octal(entry.mode ?? (entry.type === 'directory' ? 0o755 : 0o644), 100, 8)
  octal(entry.uid ?? 0, 108, 8)
  octal(entry.gid ?? 0, 116, 8)
  octal(content.length, 124, 12)
  octal(entry.mtime ?? 1_700_000_000, 136, 12)
  header.write('        ', 148)
  header.write(flag, 156)
  header.write(entry.linkTo ?? '', 157, 100)
  header.write('ustar\x0000', 257)
  const [major, minor] = entry.device ?? [0, 0]
  octal(major, 329, 8)
  octal(minor, 337, 8)
  octal(
    header.reduce((sum, byte) => sum + byte, 0),
    148,
    7,
  )
  return [header, content, Buffer.alloc((512 - (content.length % 512)) % 512)]
}
