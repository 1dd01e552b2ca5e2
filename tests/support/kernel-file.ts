// The smallest kernel that loaders take for one.

/** An ELF file with one segment of 40 bytes; wrong ones by choice. */
export function smallElf({ machine = 62, segmentBytes = 40 } = {}): Buffer {
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
