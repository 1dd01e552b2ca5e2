// Brings a file from an address or a path of this host into a new file, and tells its SHA-256. Nothing of it is trusted before that has been compared.

import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open } from 'node:fs/promises'
import { messageOf } from '../platform/flow.ts'

/** How far a download is; `totalBytes` where the other side tells it. */
export type Tell = (bytes: number, totalBytes: number | undefined) => void

export interface Fetching {
  readonly signal: AbortSignal
  readonly tell: Tell
  /** So long may nothing come, in milliseconds. */
  readonly patienceMs?: number
}

const PATIENCE_MS = 30_000
/** Larger than any program of a hypervisor. */
const LARGEST_BYTES = 1024 ** 3
/** Longest text with a checksum, in bytes. */
const LONGEST_SUM = 64 * 1024

/** Writes what lies at `source`, a URL or a path, to a new file. Returns its SHA-256 in hexadecimal. */
export async function fetchFile(source: string, file: string, fetching: Fetching): Promise<string> {
  const hash = createHash('sha256')
  await using out = await open(file, 'wx', 0o600)
  for await (const chunk of read(source, fetching, LARGEST_BYTES)) {
    hash.update(chunk)
    await out.writeFile(chunk)
  }
  return hash.digest('hex')
}

/** The SHA-256 that a text at an address begins with. */
export async function fetchSum(url: string, fetching: Fetching): Promise<string> {
  const pieces: Uint8Array[] = []
  for await (const chunk of read(url, { ...fetching, tell: () => undefined }, LONGEST_SUM)) pieces.push(chunk)
  const sum = /^[0-9a-f]{64}(?=\s|$)/i.exec(Buffer.concat(pieces).toString('latin1').trim())?.[0]
  if (sum === undefined) throw new Error(`what lies at ${url} is no SHA-256; give the right one with --sha256`)
  return sum.toLowerCase()
}

export function isUrl(source: string): boolean {
  return /^https?:\/\//.test(source)
}

/** What lies there, in pieces; fails when it is longer than `limitBytes`, ends early, or stops coming. */
async function* read(source: string, fetching: Fetching, limitBytes: number): AsyncGenerator<Uint8Array> {
  const { signal, tell, patienceMs = PATIENCE_MS } = fetching
  signal.throwIfAborted()
  const stalled = new AbortController()
  const timer = setTimeout(() => stalled.abort(), patienceMs)
  try {
    const { body, totalBytes } = await openSource(source, AbortSignal.any([signal, stalled.signal]))
    let bytes = 0
    for await (const chunk of body) {
      timer.refresh()
      bytes += chunk.length
      if (bytes > limitBytes) throw new Error(`what lies at ${source} is larger than ${limitBytes} bytes: it is not what it should be`)
      tell(bytes, totalBytes)
      yield chunk
    }
  } catch (error) {
    signal.throwIfAborted()
    if (stalled.signal.aborted) throw new Error(`nothing came from ${source} for ${patienceMs / 1000} s; try again`, { cause: error })
    throw error
  } finally {
    clearTimeout(timer)
  }
}

interface Source {
  readonly body: AsyncIterable<Uint8Array>
  readonly totalBytes: number | undefined
}

async function openSource(source: string, signal: AbortSignal): Promise<Source> {
  if (!isUrl(source)) return { body: createReadStream(source, { signal }), totalBytes: undefined }
  const answer = await fetch(source, { signal, redirect: 'follow' }).catch((cause: unknown) => {
    throw new Error(`${source} can't be reached (${messageOf(cause)}); check the network, or download it elsewhere and give --from`, {
      cause,
    })
  })
  if (answer.status === 404) throw new Error(`there is nothing at ${source}; check the version against the project's releases`)
  if (!answer.ok || answer.body === null) throw new Error(`${source} was answered with status ${answer.status}; try again`)
  const length = Number(answer.headers.get('content-length') ?? Number.NaN)
  return { body: brokenOff(source, answer.body), totalBytes: Number.isSafeInteger(length) ? length : undefined }
}

/** Says of an answer that ends early what it was. */
async function* brokenOff(source: string, body: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  try {
    yield* body
  } catch (cause) {
    throw new Error(`the download of ${source} broke off (${messageOf(cause)}); try again`, { cause })
  }
}
