// Blobs of the registry on disk by their digest, and uploads on their way to become one. Manifests are blobs too.

import { createHash, randomBytes, type Hash } from 'node:crypto'
import { lstat, open, readdir, readFile, rename, stat, utimes, type FileHandle } from 'node:fs/promises'
import path from 'node:path'
import type { Readable } from 'node:stream'
import { formatSize } from '../api/units.ts'
import type { DataLayout } from '../files/layout.ts'
import { createStaged, makeOwnDirectory, moveToTrash, syncDirectory, type StagedDirectory } from '../files/stage.ts'
import { diskErrors } from '../platform/disk-error.ts'
import { isMissing } from '../files/tree.ts'
import { digestHex, digestOf, isDigest } from '../images/index.ts'
import { OciError, type StoredBlob } from './types.ts'

export class BlobStore {
  readonly #layout: DataLayout
  readonly #directory: string
  readonly #maxBytes: number
  /** Bytes of each blob, by the hexadecimal digits of its digest. */
  readonly #sizes = new Map<string, number>()

  constructor(layout: DataLayout, maxBytes: number) {
    this.#layout = layout
    this.#directory = path.join(layout.registry, 'blobs')
    this.#maxBytes = maxBytes
  }

  async open(): Promise<void> {
    await makeOwnDirectory(path.dirname(this.#directory))
    await makeOwnDirectory(this.#directory)
    for (const hex of await readdir(this.#directory)) this.#sizes.set(hex, (await lstat(path.join(this.#directory, hex))).size)
  }

  /** Of all blobs together, bytes. */
  totalBytes(): number {
    return this.#sizes.values().reduce((sum, bytes) => sum + bytes, 0)
  }

  /** Undefined if there is none. Asking makes it young again, so that it isn't collected before the manifest that will name it comes. */
  async find(digest: string): Promise<StoredBlob | undefined> {
    if (!isDigest(digest)) throw new OciError('DIGEST_INVALID', `${JSON.stringify(digest)} is no sha256 digest`)
    const file = this.#pathOf(digest)
    try {
      const { size } = await stat(file)
      const now = new Date()
      await utimes(file, now, now)
      return { digest, sizeBytes: size, path: file }
    } catch (error) {
      if (isMissing(error)) return undefined
      throw error
    }
  }

  /** As `find`, but leaves its age as it is. */
  async peek(digest: string): Promise<{ readonly modifiedMs: number; read(): Promise<Buffer> } | undefined> {
    const file = this.#pathOf(digest)
    try {
      const { mtimeMs } = await stat(file)
      return { modifiedMs: mtimeMs, read: () => readFile(file) }
    } catch (error) {
      if (isMissing(error)) return undefined
      throw error
    }
  }

  async startUpload(): Promise<BlobUpload> {
    const id = randomBytes(16).toString('hex')
    await using undo = new AsyncDisposableStack()
    const staged = undo.use(await createStaged(this.#layout, `upload-${id}`))
    const file = await diskErrors(staged.path, () => open(path.join(staged.path, 'blob'), 'wx', 0o600))
    undo.move()
    return new BlobUpload(id, staged, file, this.#maxBytes)
  }

  /** Makes a received upload the blob that its digest says, and ends the upload either way. */
  async commit(upload: BlobUpload, digest: string): Promise<StoredBlob> {
    await using _upload = upload
    if (!isDigest(digest)) throw new OciError('DIGEST_INVALID', `${JSON.stringify(digest)} is no sha256 digest`)
    const { file, actual } = await upload.seal()
    if (actual !== digest)
      throw new OciError(
        'DIGEST_INVALID',
        `the upload has the digest ${actual}, not ${digest}: ${upload.offset} bytes arrived; send it again`,
      )
    await diskErrors(this.#directory, async () => {
      await rename(file, this.#pathOf(digest))
      this.#sizes.set(digestHex(digest), upload.offset)
      await syncDirectory(this.#directory)
    })
    return { digest, sizeBytes: upload.offset, path: this.#pathOf(digest) }
  }

  /** Commits bytes that are at hand. */
  async write(bytes: Buffer): Promise<StoredBlob> {
    await using upload = await this.startUpload()
    await upload.appendBytes(bytes)
    return await this.commit(upload, digestOf(bytes))
  }

  /** Removes what is not in `needed` and has not been touched since `before` (milliseconds since 1970). Returns the digests. */
  async removeUnneeded(needed: ReadonlySet<string>, before: number): Promise<readonly string[]> {
    const removed: string[] = []
    for (const hex of await readdir(this.#directory)) {
      const file = path.join(this.#directory, hex)
      if (needed.has(`sha256:${hex}`) || (await stat(file)).mtimeMs >= before) continue
      await moveToTrash(this.#layout, file)
      this.#sizes.delete(hex)
      removed.push(`sha256:${hex}`)
    }
    return removed
  }

  #pathOf(digest: string): string {
    return path.join(this.#directory, digestHex(digest))
  }
}

/** One upload. The digest is made as bytes come; one chunk at a time. Disposing removes what was received. */
export class BlobUpload implements AsyncDisposable {
  readonly id: string
  readonly #staged: StagedDirectory
  readonly #file: FileHandle
  readonly #maxBytes: number
  readonly #hash: Hash = createHash('sha256')
  #offset = 0
  #busy = false
  #closed = false
  /** Milliseconds since 1970. */
  touchedAt = Date.now()

  constructor(id: string, staged: StagedDirectory, file: FileHandle, maxBytes: number) {
    this.id = id
    this.#staged = staged
    this.#file = file
    this.#maxBytes = maxBytes
  }

  get offset(): number {
    return this.#offset
  }

  get busy(): boolean {
    return this.#busy
  }

  /** Appends a stream as fast as it comes. If it breaks, what came is kept and counted. */
  async append(chunks: Readable): Promise<void> {
    if (this.#closed) throw new OciError('BLOB_UPLOAD_UNKNOWN', `the upload ${this.id} has ended; start another`)
    if (this.#busy) throw new OciError('BLOB_UPLOAD_INVALID', `another request writes to the upload ${this.id}; send one at a time`)
    this.#busy = true
    try {
      for await (const chunk of chunks as AsyncIterable<Buffer>) await this.#write(chunk)
    } finally {
      this.#busy = false
      this.touchedAt = Date.now()
    }
  }

  async appendBytes(bytes: Buffer): Promise<void> {
    await this.#write(bytes)
  }

  async #write(chunk: Buffer): Promise<void> {
    if (this.#offset + chunk.length > this.#maxBytes)
      throw new OciError('SIZE_INVALID', `a blob may have at most ${formatSize(this.#maxBytes)} on this server`)
    await diskErrors(this.#staged.path, async () => {
      for (let done = 0; done < chunk.length;)
        done += (await this.#file.write(chunk, done, chunk.length - done, this.#offset + done)).bytesWritten
    })
    this.#hash.update(chunk)
    this.#offset += chunk.length
    this.touchedAt = Date.now()
  }

  /** Syncs and closes the file; nothing can be appended any more. */
  async seal(): Promise<{ readonly file: string; readonly actual: string }> {
    this.#closed = true
    try {
      await diskErrors(this.#staged.path, () => this.#file.sync())
    } finally {
      await this.#file.close()
    }
    return { file: path.join(this.#staged.path, 'blob'), actual: `sha256:${this.#hash.digest('hex')}` }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#closed) {
      this.#closed = true
      await this.#file.close()
    }
    await this.#staged[Symbol.asyncDispose]()
  }
}
