// The kernel as VMMs without a boot loader want it: an uncompressed ELF file on x86-64, an uncompressed Image on arm64. Distributions ship it compressed behind a loader of its own.
// Formats: Documentation/arch/x86/boot.rst (setup header), Documentation/arch/arm64/booting.rst (Image header), drivers/firmware/efi/libstub/zboot-header.S.

import { createHash } from 'node:crypto'
import { readFile, rename, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { promisify } from 'node:util'
import { gunzip, zstdDecompress } from 'node:zlib'
import { execa } from 'execa'
import { HypemanError } from '../api/errors.ts'
import { diskErrors } from '../platform/disk-error.ts'
import { toolCommand } from '../platform/tool.ts'
import type { DataLayout } from './layout.ts'
import { createStaged, syncDirectory, syncFile } from './stage.ts'

export type KernelArch = 'x64' | 'arm64'

/** Larger than any kernel, in bytes: a damaged length must not take all of memory. */
const LARGEST_KERNEL = 512 * 1024 ** 2
/** How long a decompressor may take, in milliseconds. */
const DECOMPRESS_LIMIT_MS = 120_000

/** Absolute path of the uncompressed kernel, made once for each kernel in the cache. */
export async function uncompressedKernel(layout: DataLayout, file: string, arch: KernelArch): Promise<string> {
  const source = await readFile(file)
  const digest = createHash('sha256').update(source).digest('hex').slice(0, 24)
  const cached = path.join(layout.cache, `kernel-${arch}-${digest}.uncompressed`)
  if (await isThere(cached)) return cached
  const kernel = await extractKernel(source, file, arch)
  await using staged = await createStaged(layout, `kernel-${digest}-${process.hrtime.bigint()}`)
  const made = path.join(staged.path, 'kernel')
  await diskErrors(made, async () => {
    await writeFile(made, kernel, { mode: 0o600 })
    await syncFile(made)
    await rename(made, cached)
    await syncDirectory(layout.cache)
  })
  return cached
}

async function isThere(file: string): Promise<boolean> {
  return stat(file).then(
    (stats) => stats.isFile() && stats.size > 0,
    () => false,
  )
}

/** The uncompressed kernel in a kernel file; `storage_unsuitable` names what is wrong with one that holds none. `file` is for messages. */
export async function extractKernel(source: Buffer, file: string, arch: KernelArch): Promise<Buffer> {
  return arch === 'x64' ? await extractElf(source, file) : await extractImage(source, file)
}

function wrong(file: string, what: string): HypemanError {
  return new HypemanError('host_unavailable', `the kernel ${file} can't be unpacked: ${what}; install it again (npm run setup)`)
}

// x86-64

/** Offsets in the setup header of a bzImage. */
const setup = { sectors: 0x1f1, magic: 0x202, version: 0x206, payloadOffset: 0x248, payloadLength: 0x24c } as const
/** The first version of the boot protocol that tells where the payload is. */
const PAYLOAD_VERSION = 0x0208
const SECTOR = 512

async function extractElf(source: Buffer, file: string): Promise<Buffer> {
  if (isElf(source)) return checkedElf(source, file)
  if (source.length < setup.payloadLength + 4 || source.toString('latin1', setup.magic, setup.magic + 4) !== 'HdrS')
    throw wrong(file, 'it is neither an ELF file nor a bzImage')
  if (source.readUInt16LE(setup.version) < PAYLOAD_VERSION) throw wrong(file, 'its boot protocol is older than 2.08')
  const sectors = source[setup.sectors] ?? 0
  const start = ((sectors === 0 ? 4 : sectors) + 1) * SECTOR + source.readUInt32LE(setup.payloadOffset)
  const end = start + source.readUInt32LE(setup.payloadLength)
  if (end > source.length || end - start < 8) throw wrong(file, 'it ends before its payload does')
  return checkedElf(await decompress(source.subarray(start, end), file), file)
}

function isElf(bytes: Buffer): boolean {
  return bytes.toString('latin1', 0, 4) === '\x7fELF'
}

const EM_X86_64 = 62
const PROGRAM_HEADER_BYTES = 56
const PT_LOAD = 1

/** A 64-bit little-endian ELF file for x86-64 whose segments are all there. */
function checkedElf(kernel: Buffer, file: string): Buffer {
  if (!isElf(kernel) || kernel.length < 64 || kernel[4] !== 2 || kernel[5] !== 1) throw wrong(file, 'what it holds is no 64-bit ELF file')
  if (kernel.readUInt16LE(18) !== EM_X86_64) throw wrong(file, 'it is for another processor than x86-64')
  const [offset, count] = [Number(kernel.readBigUInt64LE(32)), kernel.readUInt16LE(56)]
  if (kernel.readUInt16LE(54) !== PROGRAM_HEADER_BYTES || offset + count * PROGRAM_HEADER_BYTES > kernel.length)
    throw wrong(file, 'its program headers are damaged')
  let loaded = 0
  for (let at = offset; at < offset + count * PROGRAM_HEADER_BYTES; at += PROGRAM_HEADER_BYTES) {
    if (kernel.readUInt32LE(at) !== PT_LOAD) continue
    if (kernel.readBigUInt64LE(at + 8) + kernel.readBigUInt64LE(at + 32) > BigInt(kernel.length))
      throw wrong(file, 'a segment of it is missing')
    loaded += 1
  }
  if (loaded === 0) throw wrong(file, 'it has nothing to load')
  return kernel
}

// arm64

/** `ARM\x64` at 56; the size of the Image in memory, which is no less than that of the file, at 16. */
const imageMagic = { offset: 56, text: 'ARM\x64' } as const
/** An EFI program that unpacks the Image: `MZ`, and `zimg` at 4; offset and length of the payload at 8 and 12. */
const ZBOOT_HEADER_BYTES = 64

async function extractImage(source: Buffer, file: string): Promise<Buffer> {
  if (isImage(source)) return source
  const isZboot =
    source.length > ZBOOT_HEADER_BYTES && source.toString('latin1', 0, 2) === 'MZ' && source.toString('latin1', 4, 8) === 'zimg'
  const payload = isZboot ? source.subarray(source.readUInt32LE(8), source.readUInt32LE(8) + source.readUInt32LE(12)) : source
  if (isZboot && source.readUInt32LE(8) + source.readUInt32LE(12) > source.length) throw wrong(file, 'it ends before its payload does')
  // No length follows the payload: zboot's is named by its header, and an Image.gz is nothing else.
  const image = await decompress(payload, file, 0)
  if (!isImage(image)) throw wrong(file, 'what it holds is no arm64 Image')
  return image
}

function isImage(bytes: Buffer): boolean {
  const { offset, text } = imageMagic
  return bytes.length > ZBOOT_HEADER_BYTES && bytes.toString('latin1', offset, offset + text.length) === text
}

// Compressed payloads

type Unpack = (payload: Buffer, file: string) => Promise<Buffer>

const inProcess =
  (unpack: (payload: Buffer) => Promise<Buffer>): Unpack =>
  async (payload, file) =>
    unpack(payload).catch((error: unknown) => {
      throw wrong(file, error instanceof Error ? error.message : 'its payload is damaged')
    })

const byTool =
  (program: string, ...args: string[]): Unpack =>
  async (payload, file) => {
    const [command = program, ...before] = toolCommand(program)
    const result = await execa(command, [...before, ...args], {
      input: payload,
      encoding: 'buffer',
      maxBuffer: LARGEST_KERNEL,
      stripFinalNewline: false,
      timeout: DECOMPRESS_LIMIT_MS,
      reject: false,
    })
    if (!result.failed) return Buffer.from(result.stdout)
    const said =
      Buffer.from(result.stderr ?? [])
        .toString()
        .trim()
        .split('\n')
        .at(-1) ?? ''
    throw wrong(file, `${program} says ${said === '' ? result.shortMessage : said}`)
  }

const limit = { maxOutputLength: LARGEST_KERNEL }
const gunzipOf = promisify<Buffer, object, Buffer>(gunzip)
const unzstdOf = promisify<Buffer, object, Buffer>(zstdDecompress)

interface Format {
  readonly magic: Buffer
  readonly unpack: Unpack
  /** The payload of a bzImage ends with the length of what it holds, except in a format that has its own. */
  readonly hasOwnLength?: boolean
}

const formats: readonly Format[] = [
  { magic: Buffer.from('1f8b', 'hex'), unpack: inProcess((payload) => gunzipOf(payload, limit)), hasOwnLength: true },
  { magic: Buffer.from('28b52ffd', 'hex'), unpack: inProcess((payload) => unzstdOf(payload, limit)) },
  { magic: Buffer.from('fd377a585a00', 'hex'), unpack: byTool('xz', '-dc') },
  { magic: Buffer.from('02214c18', 'hex'), unpack: byTool('lz4', '-dc') },
  { magic: Buffer.from('5d0000', 'hex'), unpack: byTool('xz', '-dc', '--format=lzma') },
  { magic: Buffer.from('425a68', 'hex'), unpack: byTool('bzip2', '-dc') },
  { magic: Buffer.from('\x7fELF', 'latin1'), unpack: async (payload) => payload },
]

/** Bytes of the length that a bzImage's payload ends with. */
const LENGTH_BYTES = 4

async function decompress(payload: Buffer, file: string, lengthBytes = LENGTH_BYTES): Promise<Buffer> {
  const format = formats.find(({ magic }) => payload.subarray(0, magic.length).equals(magic))
  if (format === undefined) throw wrong(file, 'its payload is in no format that is known here (gzip, zstd, xz, lz4, lzma, bzip2)')
  const data = format.hasOwnLength === true ? payload : payload.subarray(0, payload.length - lengthBytes)
  const kernel = await format.unpack(data, file)
  if (lengthBytes > 0 && kernel.length !== payload.readUInt32LE(payload.length - LENGTH_BYTES) && !isElf(payload))
    throw wrong(file, 'its payload is damaged: it has another length than it says')
  return kernel
}
