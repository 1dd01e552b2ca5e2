// What an image is and what may be asked of images. Contract of this folder for its siblings and the server.

import type { Readable } from 'node:stream'
import type { Holding } from '../platform/capacity.ts'

export type ImageStatus = 'pending' | 'pulling' | 'converting' | 'ready' | 'failed'

/** What an image's config says about running it. */
export interface ImageConfig {
  readonly entrypoint: readonly string[]
  readonly cmd: readonly string[]
  readonly env: Readonly<Record<string, string>>
  readonly workingDir: string
  /** As in the image: empty, `uid[:gid]` or `name[:group]`. */
  readonly user: string
  readonly stopSignal: string
  readonly labels: Readonly<Record<string, string>>
  readonly exposedPorts: readonly string[]
}

export interface Image {
  /** Normalised reference, `docker.io/library/alpine:latest` or `repo@sha256:…`. */
  readonly name: string
  /** Manifest digest for the platform, `sha256:…`. */
  readonly digest: string
  readonly platform: string
  readonly status: ImageStatus
  readonly error?: string | undefined
  readonly queuePosition?: number | undefined
  /** Of the root file system image, bytes; known when ready. */
  readonly sizeBytes?: number | undefined
  readonly createdAt: string
  readonly config?: ImageConfig | undefined
  readonly tags: Readonly<Record<string, string>>
}

/** A ready image's parts that a VM needs. */
export interface ReadyImage extends Image {
  readonly status: 'ready'
  readonly config: ImageConfig
  /** Absolute path of the immutable erofs image. */
  readonly rootfsPath: string
}

export interface RegistryCredentials {
  readonly username?: string | undefined
  readonly password?: string | undefined
  readonly registryToken?: string | undefined
}

/** One piece of progress of a pull, push or import: bytes where known. */
export interface ImageProgress {
  readonly name: string
  readonly status: ImageStatus
  readonly message: string
  readonly doneBytes?: number | undefined
  readonly totalBytes?: number | undefined
}

export interface PullRequest {
  readonly name: string
  readonly platform?: string | undefined
  readonly tags?: Readonly<Record<string, string>> | undefined
  readonly credentials?: RegistryCredentials | undefined
}

/** An image whose blobs this machine has already: pushed into the server's own registry. */
export interface PushedImage {
  /** Any reference; appears in the list in its normal form. */
  readonly name: string
  /** Further references that find it, but are not listed. */
  readonly aliases: readonly string[]
  readonly digest: string
  /** Of all blobs, bytes. */
  readonly totalBytes: number
  /** Makes an OCI layout in the directory, whose only manifest is the image's. */
  writeLayout(directory: string): Promise<void>
}

/** What the registry needs of images. */
export interface PushTarget {
  /** Converts the image in the background, as a pull does once it has the blobs. */
  registerPushed(pushed: PushedImage): Promise<Image>
  get(name: string): Image
  /** Removes just this name, if it is there; further names of the image stay. */
  forget(name: string): Promise<void>
  /** Calls back after each removal of an image that somebody asked for. */
  onRemoved(listener: () => void): void
}

/** An image as it came, manifest and blobs. */
export interface KeptImage {
  /** Absolute path, for skopeo's `dir:`. */
  readonly directory: string
  readonly layers: number
  /** Of the layers as they are sent, bytes. */
  readonly layerBytes: number
}

export interface ImageService {
  /** Resolves the digest at once (so an unknown image fails here), then goes on in the background. Idempotent per digest. */
  pull(request: PullRequest): Promise<Image>
  /** Imports an OCI archive or `docker save` tar (plain or gzip) under `name`. */
  importArchive(name: string, archive: Readable, tags?: Readonly<Record<string, string>>): Promise<Image>
  list(filter?: { readonly tags?: Readonly<Record<string, string>> | undefined }): readonly Image[]
  /** By reference (any spelling) or digest; `not_found` otherwise. */
  get(name: string): Image
  /** The ready image of a reference; `not_found` or `image_not_ready` otherwise. */
  ready(name: string): ReadyImage
  /** The ready image of a digest, for instances that were created from it. */
  byDigest(digest: string): ReadyImage | undefined
  /** What was kept of the image of a digest to send it elsewhere; undefined if it was made before blobs were kept. */
  kept(digest: string): Promise<KeptImage | undefined>
  tag(name: string, target: string): Promise<Image>
  /** Removes the reference; the rootfs goes when no reference and no user (instance, snapshot) is left. */
  remove(name: string): Promise<void>
  /** Resolves when the image is ready, rejects when it failed, with its error. */
  waitReady(name: string, signal: AbortSignal): Promise<ReadyImage>
  /** Progress of everything under way; ends when `signal` aborts. */
  progress(signal: AbortSignal): AsyncIterable<ImageProgress>
  /** Removes every root file system that neither a reference nor a user needs. For after deletes of instances and snapshots. */
  collectUnused(): Promise<void>
  /** The disk that each root file system takes, whether it has a name or not. */
  held(): readonly Holding[]
  /** Keeps the root file system of a digest from being removed until disposed, for users that are being made. */
  hold(digest: string): Disposable
  /** Ends background work and waits for it; what was half done is gone at the next start. */
  close(): Promise<void>
}
