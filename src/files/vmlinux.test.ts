import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import fc from 'fast-check'
import { dataLayout } from './layout.ts'
import { makeDataDirectories } from './stage.ts'
import { extractKernel, uncompressedKernel } from './vmlinux.ts'

const installed = path.resolve(import.meta.dirname, '../../.assets/vmlinuz')

/** The smallest ELF file with something to load. */
function smallElf(machine = 62, segmentBytes = 40): Buffer {
  const elf = Buffer.alloc(64 + 56 + 40)
  elf.write('\x7fELF', 'latin1')
  elf[4] = 2
  elf[5] = 1
  elf.writeUInt16LE(machine, 18)
  elf.writeBigUInt64LE(64n, 32)
  elf.writeUInt16LE(56, 54)
  elf.writeUInt16LE(1, 56)
  elf.writeUInt32LE(1, 64)
  elf.writeBigUInt64LE(120n, 64 + 8)
  elf.writeBigUInt64LE(BigInt(segmentBytes), 64 + 32)
  return elf
}

/** A bzImage around a payload; all but gzip are followed by the length of what they hold. */
function bzImage(payload: Buffer, setupSectors = 4): Buffer {
  const image = Buffer.alloc((setupSectors + 1) * 512)
  image[0x1f1] = setupSectors
  image.write('HdrS', 0x202, 'latin1')
  image.writeUInt16LE(0x020f, 0x206)
  image.writeUInt32LE(0, 0x248)
  image.writeUInt32LE(payload.length, 0x24c)
  return Buffer.concat([image, payload])
}

function withLength(payload: Buffer, bytes: number): Buffer {
  const length = Buffer.alloc(4)
  length.writeUInt32LE(bytes)
  return Buffer.concat([payload, length])
}

function byTool(program: string, args: readonly string[], input: Buffer): Buffer {
  return execFileSync(program, args, { input, maxBuffer: 64 * 1024 ** 2 })
}

/** The call is refused as a host that lacks something, with a message that matches. */
function refused(act: () => Promise<unknown>, message: RegExp): Promise<void> {
  return assert.rejects(act, { code: 'host_unavailable', message })
}

const unpack = (image: Buffer): Promise<Buffer> => extractKernel(image, 'vmlinuz', 'x64')

test("the distribution's kernel is unpacked into an ELF file of the length that it names, once", async () => {
  const home = await mkdtemp(path.join(os.tmpdir(), 'vmlinux-'))
  try {
    const layout = dataLayout(home)
    await makeDataDirectories(layout)
    const kernel = await uncompressedKernel(layout, installed, 'x64')
    const source = await readFile(installed)
    const at = ((source[0x1f1] ?? 0) + 1) * 512 + source.readUInt32LE(0x248) + source.readUInt32LE(0x24c)
    const made = await stat(kernel)
    assert.equal(made.size, source.readUInt32LE(at - 4))
    assert.equal(path.dirname(kernel), layout.cache)
    assert.equal(await uncompressedKernel(layout, installed, 'x64'), kernel)
    assert.equal((await stat(kernel)).ino, made.ino)
  } finally {
    await rm(home, { recursive: true })
  }
})

test('every compression that kernels are built with is known', async () => {
  const elf = smallElf()
  const payloads = {
    gzip: gzipSync(elf),
    zstd: withLength(zstdCompressSync(elf), elf.length),
    xz: withLength(byTool('xz', ['-c', '--check=crc32'], elf), elf.length),
    lzma: withLength(byTool('xz', ['-c', '--format=lzma'], elf), elf.length),
    lz4: withLength(byTool('lz4', ['-lc'], elf), elf.length),
    none: withLength(elf, elf.length),
  }
  for (const [name, payload] of Object.entries(payloads)) assert.deepEqual(await unpack(bzImage(payload)), elf, name)
  assert.deepEqual(await unpack(elf), elf)
})

test('an old header without a number of setup sectors has four', async () => {
  const image = bzImage(withLength(smallElf(), smallElf().length))
  image[0x1f1] = 0
  assert.deepEqual(await unpack(image), smallElf())
})

test('damaged kernels are refused with what is wrong', async () => {
  const elf = smallElf()
  const good = bzImage(gzipSync(elf))
  const old = bzImage(gzipSync(elf))
  old.writeUInt16LE(0x0207, 0x206)
  const cases: readonly (readonly [Buffer, RegExp])[] = [
    [Buffer.from('nothing'), /neither an ELF file nor a bzImage/],
    [old, /older than 2\.08/],
    [good.subarray(0, -3), /ends before its payload/],
    [bzImage(withLength(Buffer.from('what is this'), 3)), /no format that is known/],
    [bzImage(withLength(zstdCompressSync(elf), elf.length + 1)), /another length/],
    [bzImage(withLength(byTool('lz4', ['-lc'], elf).subarray(0, -5), elf.length)), /can't be unpacked/],
    [bzImage(gzipSync(Buffer.from('no kernel at all'))), /no 64-bit ELF/],
    [bzImage(gzipSync(smallElf(183))), /another processor/],
    [bzImage(gzipSync(smallElf(62, 41))), /segment of it is missing/],
  ]
  for (const [image, what] of cases) await refused(() => unpack(image), what)
})

test('whatever bytes come, the answer is a kernel or a refusal', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 900 }), fc.boolean(), async (bytes, damaged) => {
      const image = damaged ? bzImage(withLength(smallElf(), 160)) : Buffer.from(bytes)
      if (damaged) for (const [index, byte] of bytes.entries()) if (byte < 40) image[(index * 7) % image.length] = byte
      await extractKernel(image, 'vmlinuz', 'x64').catch((error: unknown) => assert.match(String(error), /can't be unpacked/))
    }),
  )
})

function arm64Image(): Buffer {
  const image = Buffer.alloc(256)
  image.write('ARM\x64', 56, 'latin1')
  return image
}

test('an arm64 Image is found as it is, in gzip and behind an EFI loader', async () => {
  const image = arm64Image()
  const payload = zstdCompressSync(image)
  const zboot = Buffer.alloc(80)
  zboot.write('MZ', 0, 'latin1')
  zboot.write('zimg', 4, 'latin1')
  zboot.writeUInt32LE(80, 8)
  zboot.writeUInt32LE(payload.length, 12)
  for (const source of [image, gzipSync(image), Buffer.concat([zboot, payload])])
    assert.deepEqual(await extractKernel(source, 'Image', 'arm64'), image)
  await refused(() => extractKernel(gzipSync(smallElf()), 'Image', 'arm64'), /no arm64 Image/)
  await refused(() => extractKernel(Buffer.concat([zboot, payload.subarray(0, -1)]), 'Image', 'arm64'), /ends before/)
})

test('a kernel that is damaged leaves nothing in the cache', async () => {
  const home = await mkdtemp(path.join(os.tmpdir(), 'vmlinux-'))
  try {
    const layout = dataLayout(home)
    await makeDataDirectories(layout)
    const file = path.join(home, 'vmlinuz')
    await writeFile(file, bzImage(gzipSync(Buffer.from('x'))))
    await refused(() => uncompressedKernel(layout, file, 'x64'), /no 64-bit ELF/)
    assert.deepEqual(readdirSync(layout.cache), [])
  } finally {
    await rm(home, { recursive: true })
  }
})
