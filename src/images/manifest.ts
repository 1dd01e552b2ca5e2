// Manifests, indexes and configs of images, OCI's and Docker's: parsed once, chosen by platform, and as OCI for umoci. Pure.

import { createHash } from 'node:crypto'
import { z } from 'zod'
import { HypemanError } from '../api/errors.ts'
import { isDigest } from './reference.ts'

const descriptor = z.object({
  mediaType: z.string().default(''),
  digest: z.string().refine(isDigest, 'not a sha256 digest'),
  size: z.int().min(0),
  urls: z.array(z.string()).optional(),
  annotations: z.record(z.string(), z.string()).nullish(),
})
export type Descriptor = z.infer<typeof descriptor>

const platformOf = z.object({ os: z.string(), architecture: z.string(), variant: z.string().optional() })

const imageManifest = z.object({
  schemaVersion: z.literal(2),
  mediaType: z.string().optional(),
  artifactType: z.string().optional(),
  config: descriptor,
  layers: z.array(descriptor).nullish(),
})

const indexManifest = z.object({
  schemaVersion: z.literal(2),
  mediaType: z.string().optional(),
  manifests: z.array(descriptor.extend({ platform: platformOf.nullish() })),
})

export interface ImageManifest {
  readonly kind: 'image'
  readonly config: Descriptor
  readonly layers: readonly Descriptor[]
  /** Of all blobs, bytes. */
  readonly totalBytes: number
}

export interface IndexManifest {
  readonly kind: 'index'
  readonly manifests: z.infer<typeof indexManifest>['manifests']
}

const ociManifest = 'application/vnd.oci.image.manifest.v1+json'
const ociConfig = 'application/vnd.oci.image.config.v1+json'
const ociLayer = 'application/vnd.oci.image.layer.v1.tar'
const configTypes = [ociConfig, 'application/vnd.docker.container.image.v1+json', '']

/** Longest manifest that registries agree to take, bytes. */
export const LONGEST_MANIFEST = 4 * 1024 ** 2

/** `what` names the manifest in the error, which is `invalid_archive`. */
export function parseManifest(bytes: Uint8Array, what: string): ImageManifest | IndexManifest {
  const value = parseJson(bytes, what)
  const index = indexManifest.safeParse(value)
  if (index.success) return { kind: 'index', manifests: index.data.manifests }
  const image = imageManifest.safeParse(value)
  if (!image.success)
    throw new HypemanError('invalid_archive', `${what} is no image manifest of schema version 2: ${z.prettifyError(image.error)}`)
  const { config } = image.data
  const layers = image.data.layers ?? []
  return { kind: 'image', config, layers, totalBytes: layers.reduce((sum, layer) => sum + layer.size, config.size) }
}

/** False for what only travels like an image: charts, attestations, signatures, snapshots. */
export function isRunnable(manifest: ImageManifest): boolean {
  return configTypes.includes(manifest.config.mediaType)
}

/** The manifest of an index for a platform such as `linux/amd64`, or undefined. */
export function choosePlatform(index: IndexManifest, platform: string): Descriptor | undefined {
  const [os, architecture] = platform.split('/')
  return index.manifests.find((entry) => entry.platform?.os === os && entry.platform?.architecture === architecture)
}

/** The platforms of an index, for an error. */
export function platformsOf(index: IndexManifest): string {
  const names = index.manifests.flatMap(({ platform }) =>
    platform === undefined || platform === null || platform.os === 'unknown'
      ? []
      : [[platform.os, platform.architecture, platform.variant].filter(Boolean).join('/')],
  )
  return [...new Set(names)].join(', ') || 'none'
}

/** The same image as an OCI manifest, byte for byte the same for the same image. */
export function toOciManifest(manifest: ImageManifest): Buffer {
  const { config, layers } = manifest
  return Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: ociManifest,
      config: { mediaType: ociConfig, digest: config.digest, size: config.size },
      layers: layers.map(({ mediaType, digest, size }) => ({ mediaType: `${ociLayer}${compressionSuffix(mediaType)}`, digest, size })),
    }),
  )
}

export type Compression = 'none' | 'gzip' | 'zstd'

/** What a layer's media type says of its compression. */
export function compressionOf(mediaType: string): Compression {
  if (/[.+]zstd$/.test(mediaType)) return 'zstd'
  return /[.+]gzip$/.test(mediaType) ? 'gzip' : 'none'
}

function compressionSuffix(mediaType: string): string {
  const compression = compressionOf(mediaType)
  return compression === 'none' ? '' : `+${compression}`
}

export function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}

export function parseJson(bytes: Uint8Array, what: string): unknown {
  try {
    return JSON.parse(Buffer.from(bytes).toString())
  } catch (cause) {
    throw new HypemanError('invalid_archive', `${what} is no JSON`, { cause })
  }
}
