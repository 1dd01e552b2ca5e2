// A guest without a kernel or a processor, for tests of a driver alone: memory that is read and written by page, the system disk (the second one), and a "program" on the first port which
// takes a command a line while the guest runs:
//   memory N      → the text of page N          memory N TEXT → writes it
//   disk          → the text on the disk        disk TEXT     → writes it
//   off, reset    → the guest ends so
// It is a `Guest` in all that a stand-in asks of one.

import { open, truncate, writeFile, type FileHandle } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { duplexPair, PassThrough, type Duplex } from 'node:stream'
import { extentsOf } from '../../src/files/extents.ts'
import type { Guest, GuestDescription, GuestEnd, SavedGuest } from './guest.ts'

const PAGE = 4096
/** From what ends it to its end, in milliseconds: whoever asked for it is answered first. */
const ENDS_AFTER_MS = 50

export async function startPaperGuest(description: GuestDescription, saved?: SavedGuest): Promise<Guest> {
  let bytes = (description.memoryMib + (saved?.pieces ?? []).reduce((sum, mib) => sum + mib, 0)) * 1024 ** 2
  const base = saved === undefined ? undefined : await open(saved.memoryFile, 'r')
  const own = new Map<number, Buffer>()
  /** Pages that were written since memory was last saved or loaded. */
  const changed = new Set<number>()
  const write = (page: number, text: string): void => {
    own.set(page, pageOf(text))
    changed.add(page)
  }
  if (saved === undefined) for (const page of [0, 7, bytes / PAGE - 1]) write(page, `boot ${page}`)
  const ended = Promise.withResolvers<GuestEnd>()
  const [host, guest] = duplexPair()
  const disks = description.disks.map(() => ({ readBytes: 0, writtenBytes: 0, reads: 0, writes: 0 }))
  let paused = saved === undefined ? undefined : Promise.withResolvers<void>()

  const read = async (page: number): Promise<Buffer> => {
    const known = own.get(page)
    if (known !== undefined) return known
    const copy = Buffer.alloc(PAGE)
    await base?.read(copy, 0, PAGE, page * PAGE)
    // Asked for: from now on it is the process's own.
    own.set(page, copy)
    return copy
  }
  const saveTo = async (file: string, what: 'all' | 'own' | 'changed'): Promise<void> => {
    await using target = await open(file, 'w', 0o600)
    await target.truncate(bytes)
    if (what === 'all' && base !== undefined) await copyData(base, bytes, target)
    for (const [page, data] of own) if (what !== 'changed' || changed.has(page)) await target.write(data, 0, PAGE, page * PAGE)
    changed.clear()
  }
  const carryOut = async (line: string): Promise<string> => {
    const [command, ...words] = line.split(' ')
    if (command === 'off' || command === 'reset') setTimeout(() => ended.resolve(command), ENDS_AFTER_MS)
    if (command === 'memory') {
      const page = Number(words[0])
      if (words.length === 1) return textOf(await read(page))
      write(page, words.slice(1).join(' '))
    }
    if (command === 'disk') {
      await using disk = await open(description.disks[1]?.path ?? '', 'r+')
      const counts = disks[1] ?? { readBytes: 0, writtenBytes: 0, reads: 0, writes: 0 }
      if (words.length === 0) {
        counts.readBytes += PAGE
        counts.reads += 1
        return textOf((await disk.read(Buffer.alloc(PAGE), 0, PAGE, 0)).buffer)
      }
      counts.writtenBytes += PAGE
      counts.writes += 1
      await disk.write(pageOf(words.join(' ')), 0, PAGE, 0)
    }
    return 'ok'
  }
  const serve = async (): Promise<void> => {
    for await (const line of createInterface({ input: guest })) {
      await paused?.promise
      guest.write(`${await carryOut(line)}\n`)
    }
  }
  serve().catch(ended.reject)
  // Nobody may be listening.
  host.resume()
  const streams = new Map<string, Duplex>(description.ports.map((name, index) => [name, index === 0 ? host : new PassThrough()]))

  return {
    memory: {
      saveAll: (file) => saveTo(file, 'all'),
      saveChanges: (file) => saveTo(file, 'changed'),
      saveOwn: (file) => saveTo(file, 'own'),
    },
    ended: ended.promise,
    async pause() {
      paused = Promise.withResolvers<void>()
    },
    async resume() {
      paused?.resolve()
      paused = undefined
    },
    async powerButton() {
      setTimeout(() => ended.resolve('off'), ENDS_AFTER_MS)
    },
    async pressKeys() {},
    saveDevices: (file) => writeFile(file, 'paper'),
    async limitDisk() {},
    async plugMemory(mib) {
      bytes += mib * 1024 ** 2
    },
    async plugProcessors() {},
    async resizeDisk(place, size) {
      await truncate(description.disks[place]?.path ?? '', size)
    },
    traffic: () => Promise.resolve({ disks, network: undefined }),
    port: (name) => Promise.resolve(streams.get(name)),
    async kill() {
      ended.resolve('gone')
      await base?.close()
    },
  }
}

function pageOf(text: string): Buffer {
  const page = Buffer.alloc(PAGE)
  page.write(text, 'utf8')
  return page
}

function textOf(page: Buffer): string {
  return page.toString('utf8', 0, page.indexOf(0))
}

async function copyData(from: FileHandle, bytes: number, to: FileHandle): Promise<void> {
  for (const extent of extentsOf(from.fd, bytes, 'memory')) {
    const data = Buffer.alloc(extent.to - extent.from)
    await from.read(data, 0, data.length, extent.from)
    await to.write(data, 0, data.length, extent.from)
  }
}
