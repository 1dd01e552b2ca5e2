// Puts itself between the product and Node's file system functions, so that a fault can come from each single call that changes the disk, and a crash
// before each. Node's own modules are changed in place, which every `import` of them sees; nothing of the product knows. Only calls below the data
// directory count, and none to the logs of events and of who changed what, whose loss is no failure. What tools and VMMs write by themselves is not seen here.

import fs from 'node:fs'
import fsp, { type FileHandle } from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'
import koffi from 'koffi'
import type { Striker } from './strike.ts'

type Flags = string | number | undefined

const logs = /\/logs\/(?:events|audit)\.jsonl(?:\.\d+)?$/

export async function interceptCalls(striker: Striker, dataDirectory: string): Promise<void> {
  const seen = (file: string): boolean => file.startsWith(`${dataDirectory}/`) && !logs.test(file)
  const meet = (name: string, file: unknown, takesSpace = true): void => {
    if (seen(String(file))) striker.call({ name, path: String(file), takesSpace, isWrite: false })
  }
  interceptNames(meet)
  await interceptHandles(striker, seen, meet)
  interceptStreams(meet)
  interceptExchange(meet)
  syncBuiltinESMExports()
}

type Meet = (name: string, file: unknown, takesSpace?: boolean) => void

/** Calls that change names. */
function interceptNames(meet: Meet): void {
  const { mkdir, rename, rm, unlink, link, chmod, utimes } = fsp
  Object.assign(fsp, {
    async mkdir(...args: Parameters<typeof mkdir>) {
      meet('mkdir', args[0])
      return await mkdir(...args)
    },
    async rename(...args: Parameters<typeof rename>) {
      // The trash has room for a name more: a directory does not shrink when names leave it. What is really full is in matrix-disk.test.ts.
      meet('rename', args[1], !String(args[1]).includes('/trash/'))
      await rename(...args)
    },
    async rm(...args: Parameters<typeof rm>) {
      meet('rm', args[0], false)
      await rm(...args)
    },
    async unlink(...args: Parameters<typeof unlink>) {
      meet('unlink', args[0], false)
      await unlink(...args)
    },
    async link(...args: Parameters<typeof link>) {
      meet('link', args[1])
      await link(...args)
    },
    async chmod(...args: Parameters<typeof chmod>) {
      meet('chmod', args[0], false)
      await chmod(...args)
    },
    async utimes(...args: Parameters<typeof utimes>) {
      meet('utimes', args[0], false)
      await utimes(...args)
    },
  })
}

/** What is put back behind the interception, as functions that are called on a handle. */
interface Originals {
  readonly write: (this: FileHandle, ...args: readonly unknown[]) => Promise<unknown>
  readonly writeFile: (this: FileHandle, data: unknown, options?: unknown) => Promise<void>
  readonly sync: (this: FileHandle) => Promise<void>
  readonly truncate: (this: FileHandle, size?: number) => Promise<void>
}

/** Opened files: `writeFile` and `appendFile` become the calls that they are made of. */
async function interceptHandles(striker: Striker, seen: (file: string) => boolean, meet: Meet): Promise<void> {
  const paths = new WeakMap<FileHandle, string>()
  const open = fsp.open
  const openSeen = async (...[file, flags, mode]: Parameters<typeof open>): Promise<FileHandle> => {
    if (writes(flags)) meet('open', file)
    const handle = await open(file, flags, mode)
    paths.set(handle, String(file))
    return handle
  }
  const pathOf = (handle: FileHandle): string => paths.get(handle) ?? ''

  await using probe = await open('/dev/null')
  const prototype = Object.getPrototypeOf(probe) as Originals
  const { write, writeFile, sync, truncate } = prototype
  /** A write that is to be cut in half is, and then the process ends. */
  const meetWrite = async (handle: FileHandle, half: () => Promise<unknown>): Promise<void> => {
    const file = pathOf(handle)
    if (!seen(file) || striker.call({ name: 'write', path: file, takesSpace: true, isWrite: true }) === 'whole') return
    await half()
    striker.end()
  }
  Object.assign(prototype, {
    async write(this: FileHandle, ...args: readonly unknown[]) {
      const [data, offset, length, position] = args
      await meetWrite(this, async () => {
        if (data instanceof Uint8Array) {
          const [from, all] = [typeof offset === 'number' ? offset : 0, typeof length === 'number' ? length : data.length]
          await Reflect.apply(write, this, [data, from, Math.floor(all / 2), typeof position === 'number' ? position : null])
        }
      })
      return await Reflect.apply(write, this, args)
    },
    async writeFile(this: FileHandle, ...args: readonly [data: unknown, options?: unknown]) {
      const [data] = args
      await meetWrite(this, async () => {
        if (typeof data === 'string' || data instanceof Uint8Array) await writeFile.call(this, data.slice(0, Math.floor(data.length / 2)))
      })
      await writeFile.call(this, ...args)
    },
    async sync(this: FileHandle) {
      meet('sync', pathOf(this), !(await this.stat()).isDirectory())
      await sync.call(this)
    },
    async truncate(this: FileHandle, size?: number) {
      meet('truncate', pathOf(this))
      await truncate.call(this, size)
    },
  })

  const writeWhole = async (file: unknown, data: unknown, options: unknown, flag: string): Promise<void> => {
    const { flag: own, mode } = typeof options === 'object' && options !== null ? (options as { flag?: string; mode?: number }) : {}
    await using handle = await openSeen(String(file), own ?? flag, mode)
    await handle.writeFile(data as string | Uint8Array)
  }
  Object.assign(fsp, {
    open: openSeen,
    writeFile: (file: unknown, data: unknown, options?: unknown) => writeWhole(file, data, options, 'w'),
    appendFile: (file: unknown, data: unknown, options?: unknown) => writeWhole(file, data, options, 'a'),
  })
}

/** Streams into files, logs that are opened for VMMs, and syncs of what is opened for that alone. */
function interceptStreams(meet: Meet): void {
  const { open, write, openSync, fsync } = fs
  const paths = new Map<number, string>()
  Object.assign(fs, {
    open(...args: unknown[]) {
      const [file, flags] = args
      const done = args.at(-1) as (error: unknown, fd?: number) => void
      const isWriting = writes(flags as Flags)
      try {
        if (isWriting) meet('open', file)
      } catch (error) {
        done(error)
        return
      }
      const opened = (error: unknown, fd?: number): void => {
        if (fd !== undefined && isWriting) paths.set(fd, String(file))
        done(error, fd)
      }
      Reflect.apply(open, fs, [...args.slice(0, -1), opened])
    },
    write(...args: unknown[]) {
      try {
        meet('write', paths.get(args[0] as number) ?? '')
      } catch (error) {
        ;(args.at(-1) as (error: unknown) => void)(error)
        return
      }
      Reflect.apply(write, fs, args)
    },
    fsync(...[fd, done]: Parameters<typeof fsync>) {
      try {
        meet('sync', fs.readlinkSync(`/proc/self/fd/${fd}`), !fs.fstatSync(fd).isDirectory())
      } catch (error) {
        done(error as NodeJS.ErrnoException)
        return
      }
      fsync(fd, done)
    },
    openSync(...args: Parameters<typeof openSync>) {
      if (writes(args[1])) meet('open', args[0])
      return openSync(...args)
    },
  })
}

/** renameat2(2), which the product calls by itself. */
function interceptExchange(meet: Meet): void {
  const { load } = koffi
  Object.assign(koffi, {
    load(...args: Parameters<typeof load>) {
      const library = load(...args)
      return {
        func(prototype: string) {
          const bound = library.func(prototype)
          if (!prototype.includes('renameat2')) return bound
          return (...names: readonly unknown[]): unknown => {
            try {
              meet('exchange', names[1], false)
            } catch (error) {
              koffi.errno(-((error as { errno?: number }).errno ?? -5))
              return -1
            }
            return Reflect.apply(bound, undefined, names)
          }
        },
      }
    },
  })
}

function writes(flags: Flags): boolean {
  return typeof flags === 'number' ? (flags & (fs.constants.O_WRONLY | fs.constants.O_RDWR)) !== 0 : flags !== undefined && flags !== 'r'
}
