// Reads the headers of a tar stream, entry by entry, without keeping contents: what is in it, and how large it becomes.
// ustar, GNU and pax headers, sparse files too; unpacking is umoci's work.

export interface TarEntry {
  readonly path: string
  /** The type flag: `0` file, `1` hard link, `2` symbolic link, `5` directory, … */
  readonly type: string
  readonly linkPath: string
  /** Of the content once it is unpacked, bytes; more than the archive holds if the file is sparse. */
  readonly unpackedBytes: number
  /** Seconds since 1970. */
  readonly mtime: number
  /** The content as it is in the archive, or undefined if that is more than `atMost` bytes. Only before the next entry is taken. */
  read(atMost: number): Promise<Buffer | undefined>
}

/** What makes a stream no tar. */
export class TarError extends Error {
  constructor(message: string) {
    super(message)
    this.name = 'TarError'
  }
}

const BLOCK = 512
/** Longest pax header or GNU long name that is read into memory, bytes. Names have at most 4096, extended attributes 64 KiB each. */
const LONGEST_EXTENSION = 4 * 1024 ** 2

/** The entries of a tar stream. Returns after the stream's end has been read, so that a decompressor before it checks its own end too. */
export async function* tarEntries(source: AsyncIterable<Uint8Array>): AsyncGenerator<TarEntry> {
  await using input = new Input(source)
  let next: Extension = {}
  for (let header = await input.take(BLOCK); header !== undefined && !isZero(header); header = await input.take(BLOCK)) {
    checkHeader(header)
    const type = String.fromCharCode(header[156] ?? 0)
    const stored = next.size ?? number(header, 124, 12)
    const padded = Math.ceil(stored / BLOCK) * BLOCK
    if (type === 'x' || type === 'L' || type === 'K') {
      next = { ...next, ...extensionOf(type, await content(input, stored, padded)) }
      continue
    }
    if (type === 'g') {
      await input.skip(padded)
      continue
    }
    const sparse = type === 'S' ? await gnuSparseSize(input, header) : (next.realSize ?? 0)
    // The types of links, devices and directories have no content, whatever size they claim.
    const held = /[1-6]/.test(type) ? 0 : padded
    let unread = held
    yield {
      path: next.path ?? nameOf(header),
      type: type === '\0' || type === '7' || type === 'S' ? '0' : type,
      linkPath: next.linkPath ?? text(header, 157, 100),
      unpackedBytes: Math.max(held === 0 ? 0 : stored, sparse),
      mtime: next.mtime ?? number(header, 136, 12),
      async read(atMost) {
        if (held === 0 || stored > atMost) return held === 0 ? Buffer.alloc(0) : undefined
        unread = 0
        return content(input, stored, padded)
      },
    }
    await input.skip(unread)
    next = {}
  }
  await input.drain()
}

interface Extension {
  readonly path?: string
  readonly linkPath?: string
  readonly size?: number
  readonly realSize?: number
  readonly mtime?: number
}

async function content(input: Input, stored: number, padded: number): Promise<Buffer> {
  if (stored > LONGEST_EXTENSION) throw new TarError(`a header extension of ${stored} bytes is too long`)
  const bytes = await input.take(padded)
  if (bytes === undefined) throw new TarError('it ends in the middle of an entry')
  return bytes.subarray(0, stored)
}

function extensionOf(type: string, bytes: Buffer): Extension {
  if (type === 'L') return { path: text(bytes, 0, bytes.length) }
  if (type === 'K') return { linkPath: text(bytes, 0, bytes.length) }
  return paxOf(bytes)
}

// pax(1): records of `<length> <key>=<value>\n`, the length counting the whole record.
function paxOf(bytes: Buffer): Extension {
  const values = new Map<string, string>()
  for (let at = 0; at < bytes.length;) {
    const space = bytes.indexOf(0x20, at)
    const length = Number(bytes.toString('latin1', at, space))
    if (space < 0 || !Number.isSafeInteger(length) || length < 5 || at + length > bytes.length)
      throw new TarError('a pax header is malformed')
    const record = bytes.toString('utf8', space + 1, at + length - 1)
    const equals = record.indexOf('=')
    if (equals < 1) throw new TarError('a pax header is malformed')
    values.set(record.slice(0, equals), record.slice(equals + 1))
    at += length
  }
  const path = values.get('GNU.sparse.name') ?? values.get('path')
  const linkPath = values.get('linkpath')
  const size = byteCount(values.get('size'))
  const realSize = byteCount(values.get('GNU.sparse.realsize') ?? values.get('GNU.sparse.size'))
  const mtime = decimal(values.get('mtime'))
  return {
    ...(path === undefined ? {} : { path }),
    ...(linkPath === undefined ? {} : { linkPath }),
    ...(size === undefined ? {} : { size }),
    ...(realSize === undefined ? {} : { realSize }),
    ...(mtime === undefined ? {} : { mtime }),
  }
}

function decimal(value: string | undefined): number | undefined {
  if (value === undefined) return undefined
  const parsed = Number(value)
  if (value === '' || !Number.isFinite(parsed)) throw new TarError(`a pax header has the number ${JSON.stringify(value)}`)
  return Math.trunc(parsed)
}

function byteCount(value: string | undefined): number | undefined {
  const bytes = decimal(value)
  if (bytes !== undefined && (bytes < 0 || !Number.isSafeInteger(bytes))) throw new TarError(`a pax header has the size ${value}`)
  return bytes
}

// Old GNU format: the real size is in the header, and blocks with more of the map may follow before the content.
async function gnuSparseSize(input: Input, header: Buffer): Promise<number> {
  let more = header[482] !== 0
  while (more) {
    const block = await input.take(BLOCK)
    if (block === undefined) throw new TarError('it ends in the middle of an entry')
    more = block[504] !== 0
  }
  return number(header, 483, 12)
}

function checkHeader(header: Buffer): void {
  let sum = 0
  for (const [index, byte] of header.entries()) sum += index >= 148 && index < 156 ? 0x20 : byte
  if (sum !== number(header, 148, 8)) throw new TarError('it is no tar, or damaged: the checksum of a header is wrong')
}

function nameOf(header: Buffer): string {
  const name = text(header, 0, 100)
  const prefix = header.toString('latin1', 257, 263) === 'ustar\0' ? text(header, 345, 155) : ''
  return prefix === '' ? name : `${prefix}/${name}`
}

function text(bytes: Buffer, from: number, length: number): string {
  const field = bytes.subarray(from, from + length)
  const end = field.indexOf(0)
  return field.toString('utf8', 0, end < 0 ? field.length : end)
}

/** An octal number, or GNU's binary form for what does not fit. */
function number(bytes: Buffer, from: number, length: number): number {
  const first = bytes[from] ?? 0
  if (first === 0xff) return -1 // a time before 1970; nothing else is negative
  const value =
    first === 0x80
      ? bytes.subarray(from + 1, from + length).reduce((sum, byte) => sum * 256 + byte, 0)
      : Number.parseInt(text(bytes, from, length).trim() || '0', 8)
  if (!Number.isSafeInteger(value) || value < 0) throw new TarError('a header has a number that is none')
  return value
}

function isZero(block: Buffer): boolean {
  return block.every((byte) => byte === 0)
}

/** Takes exact amounts from a stream of chunks of any size. */
class Input {
  readonly #chunks: AsyncIterator<Uint8Array>
  #rest: Uint8Array = new Uint8Array(0)

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#chunks = source[Symbol.asyncIterator]()
  }

  /** The next bytes, or undefined at the end of the stream. */
  async take(length: number): Promise<Buffer | undefined> {
    const parts: Uint8Array[] = []
    let missing = length
    while (missing > 0) {
      if (this.#rest.length === 0 && !(await this.#more())) break
      parts.push(this.#rest.subarray(0, missing))
      missing -= Math.min(missing, this.#rest.length)
      this.#rest = this.#rest.subarray((parts.at(-1) ?? this.#rest).length)
    }
    if (missing === 0) return Buffer.concat(parts, length)
    if (missing === length) return undefined
    throw new TarError('it ends in the middle of an entry')
  }

  async skip(length: number): Promise<void> {
    let missing = length
    while (missing > 0) {
      if (this.#rest.length === 0 && !(await this.#more())) throw new TarError('it ends in the middle of an entry')
      const skipped = Math.min(missing, this.#rest.length)
      this.#rest = this.#rest.subarray(skipped)
      missing -= skipped
    }
  }

  async drain(): Promise<void> {
    while (await this.#more());
  }

  async #more(): Promise<boolean> {
    const { done, value } = await this.#chunks.next()
    this.#rest = done === true ? new Uint8Array(0) : value
    return done !== true
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#chunks.return?.()
  }
}
