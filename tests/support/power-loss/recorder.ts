// A disk that writes down what happens to it: a file system with one file in it, whose writes and syncs are appended to a log in the order
// in which they came. A program of its own (recorded-disk.ts starts it), since whoever uses the disk waits for it in the kernel.
// Usage: node recorder.ts MOUNTPOINT DATA LOG
//
// It speaks the kernel's FUSE protocol (linux/fuse.h, version 7.31) itself and answers one request before it reads the next: a sync therefore
// covers exactly the writes before it in the log. QEMU's blklogwrites behind its FUSE export does not promise that: up to QEMU 10.0 a request
// may be read into the buffer of a write that is still under way.

import { spawnSync } from 'node:child_process'
import { fstatSync, openSync, readSync, writeSync } from 'node:fs'
import { logEntry } from './write-log.ts'

const opcodes = { getattr: 3, setattr: 4, open: 14, read: 15, write: 16, release: 18, fsync: 20, flush: 25, init: 26 } as const
/** Forget, interrupt, destroy and forget many: nobody waits for an answer. */
const unanswered: ReadonlySet<number> = new Set([2, 36, 38, 42])

const IN_HEADER = 40
const OUT_HEADER = 16
const WRITE_HEADER = 40
const PAGE = 4096
const MAX_PAGES = 256
const ENOSYS = 38
/** `FUSE_BIG_WRITES` and `FUSE_MAX_PAGES`. */
const INIT_FLAGS = (1 << 5) | (1 << 22)
/** Nothing is kept in the page cache of this file, so that a read always tells what the disk has. */
const FOPEN_DIRECT_IO = 1
const REGULAR_FILE = 0o100600

const [mountpoint = '', dataFile = '', logFile = ''] = process.argv.slice(2)
const data = openSync(dataFile, 'r+')
const log = openSync(logFile, 'a')
const { size } = fstatSync(data)
const kernel = openSync('/dev/fuse', 'r+')
mount()
serve()

function mount(): void {
  const options = `fd=3,rootmode=${REGULAR_FILE.toString(8)},user_id=0,group_id=0`
  const { status, stderr } = spawnSync('mount', ['-i', '-t', 'fuse', '-o', options, 'recorded-disk', mountpoint], {
    stdio: ['ignore', 'ignore', 'pipe', kernel],
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(`the recorded disk can't be mounted: ${stderr}`)
}

/** Until the file system is unmounted. */
function serve(): void {
  const request = Buffer.alloc(MAX_PAGES * PAGE + PAGE)
  for (;;) {
    const length = nextRequest(request)
    if (length === 0) return
    const opcode = request.readUInt32LE(4)
    if (unanswered.has(opcode)) continue
    const answer = answerTo(opcode, request.subarray(IN_HEADER, length))
    const header = Buffer.alloc(OUT_HEADER)
    header.writeUInt32LE(OUT_HEADER + (answer?.length ?? 0), 0)
    header.writeInt32LE(answer === undefined ? -ENOSYS : 0, 4)
    request.copy(header, 8, 8, 16)
    writeSync(kernel, Buffer.concat([header, answer ?? Buffer.alloc(0)]))
  }
}

/** Reads one request; 0 bytes when the file system was unmounted. */
function nextRequest(into: Buffer): number {
  for (;;) {
    try {
      return readSync(kernel, into)
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? error.code : undefined
      if (code === 'ENODEV') return 0
      // A request that was taken back before it could be read (fuse(4)), or a signal.
      if (code !== 'ENOENT' && code !== 'EINTR') throw error
    }
  }
}

/** The answer's body; undefined for what such a file can't do. */
function answerTo(opcode: number, body: Buffer): Buffer | undefined {
  switch (opcode) {
    case opcodes.init:
      return initAnswer(body)
    case opcodes.getattr:
    case opcodes.setattr:
      return attributes()
    case opcodes.open:
      return openAnswer()
    case opcodes.read:
      return read(Number(body.readBigUInt64LE(8)), body.readUInt32LE(16))
    case opcodes.write:
      return write(Number(body.readBigUInt64LE(8)), body.subarray(WRITE_HEADER, WRITE_HEADER + body.readUInt32LE(16)))
    case opcodes.fsync:
      writeSync(log, logEntry('sync', 0, 0))
      return Buffer.alloc(0)
    // Sent when the file is closed, which makes nothing durable.
    case opcodes.flush:
    case opcodes.release:
      return Buffer.alloc(0)
    default:
      return undefined
  }
}

function initAnswer(body: Buffer): Buffer {
  const answer = Buffer.alloc(64)
  answer.writeUInt32LE(7, 0)
  answer.writeUInt32LE(31, 4)
  answer.writeUInt32LE(0, 8) // no read-ahead
  answer.writeUInt32LE((body.readUInt32LE(12) & INIT_FLAGS) >>> 0, 12)
  answer.writeUInt32LE(MAX_PAGES * PAGE, 20)
  answer.writeUInt32LE(1, 24)
  answer.writeUInt16LE(MAX_PAGES, 28)
  return answer
}

function attributes(): Buffer {
  const answer = Buffer.alloc(104)
  const attribute = answer.subarray(16)
  attribute.writeBigUInt64LE(1n, 0)
  attribute.writeBigUInt64LE(BigInt(size), 8)
  attribute.writeBigUInt64LE(BigInt(size) / 512n, 16)
  attribute.writeUInt32LE(REGULAR_FILE, 60)
  attribute.writeUInt32LE(1, 64)
  attribute.writeUInt32LE(PAGE, 80)
  return answer
}

function openAnswer(): Buffer {
  const answer = Buffer.alloc(16)
  answer.writeUInt32LE(FOPEN_DIRECT_IO, 8)
  return answer
}

function read(offset: number, length: number): Buffer {
  const answer = Buffer.alloc(Math.max(0, Math.min(length, size - offset)))
  for (let done = 0; done < answer.length;) {
    const count = readSync(data, answer, done, answer.length - done, offset + done)
    if (count === 0) throw new Error(`the disk's data end at ${offset + done}`)
    done += count
  }
  return answer
}

function write(offset: number, bytes: Buffer): Buffer {
  writeSync(log, Buffer.concat([logEntry('write', offset, bytes.length), bytes]))
  for (let done = 0; done < bytes.length;) done += writeSync(data, bytes, done, bytes.length - done, offset + done)
  const answer = Buffer.alloc(8)
  answer.writeUInt32LE(bytes.length, 0)
  return answer
}
