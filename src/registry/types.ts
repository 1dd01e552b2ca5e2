// The server's own OCI registry: what may be asked of it. Contract of this folder for the server's /v2 routes (OCI distribution spec 1.1).

import type { Readable } from 'node:stream'
import type { Unreadable } from '../api/schemas/unreadable.ts'
import type { Holding } from '../platform/capacity.ts'

/** Codes of the distribution spec, with the HTTP status that each is answered with. */
export const ociErrorStatus = {
  BLOB_UNKNOWN: 404,
  BLOB_UPLOAD_INVALID: 400,
  BLOB_UPLOAD_UNKNOWN: 404,
  DENIED: 403,
  DIGEST_INVALID: 400,
  MANIFEST_BLOB_UNKNOWN: 404,
  MANIFEST_INVALID: 400,
  MANIFEST_UNKNOWN: 404,
  NAME_INVALID: 400,
  NAME_UNKNOWN: 404,
  RANGE_INVALID: 416,
  SIZE_INVALID: 413,
  TAG_INVALID: 400,
  UNAUTHORIZED: 401,
  UNSUPPORTED: 405,
} as const

export type OciErrorCode = keyof typeof ociErrorStatus

/** An error as clients of registries understand it. */
export class OciError extends Error {
  readonly code: OciErrorCode

  constructor(code: OciErrorCode, message: string, options: { readonly cause?: unknown } = {}) {
    super(message, options)
    this.name = 'OciError'
    this.code = code
  }

  get status(): number {
    return ociErrorStatus[this.code]
  }
}

export interface StoredBlob {
  readonly digest: string
  readonly sizeBytes: number
  /** Absolute path of its immutable file. */
  readonly path: string
}

export interface StoredManifest extends StoredBlob {
  readonly mediaType: string
}

export interface UploadState {
  readonly id: string
  /** What has been received and kept, bytes: where the next chunk begins. */
  readonly offset: number
}

export interface ManifestUpload {
  readonly repository: string
  /** A tag or a digest. */
  readonly reference: string
  readonly mediaType: string | undefined
  readonly body: Buffer
  /** The host that the client pushed to, for the alias under which it finds the image again. */
  readonly host: string | undefined
}

export interface RegistryService {
  /** Longest manifest that is taken, bytes. */
  readonly maxManifestBytes: number
  /** `NAME_INVALID` for what is no repository. Every call below checks it as well. */
  blob(repository: string, digest: string): Promise<StoredBlob>
  manifest(repository: string, reference: string): Promise<StoredManifest>
  /** As `manifest`, but `MANIFEST_UNKNOWN` too where its image failed or was removed: clients don't push what they are told is here. */
  pushed(repository: string, reference: string): Promise<StoredManifest>
  /** Sorted; `NAME_UNKNOWN` for a repository that nothing was pushed to. */
  tags(repository: string): readonly string[]
  startUpload(repository: string): Promise<UploadState>
  upload(repository: string, id: string): UploadState
  /** Appends a chunk; `from` is where the client believes it begins. What a broken connection brought is kept. */
  appendUpload(repository: string, id: string, chunk: Readable, from: number | undefined): Promise<UploadState>
  /** Appends the rest, checks the digest, and commits the blob. */
  finishUpload(repository: string, id: string, digest: string, rest: Readable): Promise<StoredBlob>
  cancelUpload(repository: string, id: string): Promise<void>
  /** Commits a manifest whose blobs are here, and lets its image be made in the background. */
  putManifest(upload: ManifestUpload): Promise<StoredManifest>
  /** Removes tags whose image was removed, and then manifests and blobs that nothing names. Done by itself after removals of images. */
  collectUnused(): Promise<void>
  /** The disk that all blobs take. */
  held(): Holding
  /** Repositories whose records can't be read. */
  unreadable(): readonly Unreadable[]
  /** Ends uploads under way. */
  close(): Promise<void>
}
