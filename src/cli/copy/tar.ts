// Tar streams at standard input and output instead of a path here: what `hypeman cp` does for `-`.

import { Readable } from 'node:stream'
import type { ReadableStream } from 'node:stream/web'
import path from 'node:path'
import type { createTarDecoder } from 'modern-tar'
import type { Session } from '../context.ts'
import { write, type Input } from '../terminal.ts'
import { guestSource } from './from-guest.ts'

export interface TarPlan {
  readonly instance: string
  /** In the guest. */
  readonly path: string
  readonly followLinks: boolean
  readonly owners: boolean
  readonly tell: (bytes: number) => void
}

/** Writes what is at a path of a guest to standard output as a tar stream. */
export async function tarFromGuest(session: Session, plan: TarPlan): Promise<void> {
  const [{ copyOut }, { createTarPacker }] = await Promise.all([import('../../client/copy.ts'), import('modern-tar')])
  const { readable, controller } = createTarPacker()
  const request = { path: guestSource(plan.path), followLinks: plan.followLinks }
  const pack = async (): Promise<void> => {
    for await (const { entry, body } of copyOut(session.client.http, plan.instance, request, session.signal)) {
      const { mode, uid, gid } = entry
      const common = { mode, uid, gid, mtime: new Date(entry.mtime * 1000) }
      const header =
        entry.kind === 'file'
          ? { ...common, name: entry.path, type: 'file' as const, size: entry.size }
          : entry.kind === 'directory'
            ? { ...common, name: `${entry.path}/`, type: 'directory' as const, size: 0 }
            : { ...common, name: entry.path, type: 'symlink' as const, size: 0, linkname: entry.linkTarget }
      const sink = controller.add(header).getWriter()
      for await (const chunk of body) {
        await sink.ready
        await sink.write(chunk)
      }
      await sink.close()
    }
    controller.finalize()
  }
  const packing = pack().catch((error: unknown) => {
    controller.error(error)
    throw error
  })
  let bytes = 0
  const copying = (async () => {
    for await (const chunk of readable) {
      await write(session.stdout, chunk)
      plan.tell((bytes += chunk.length))
    }
  })()
  const [packed, copied] = await Promise.allSettled([packing, copying])
  if (packed.status === 'rejected') throw packed.reason
  if (copied.status === 'rejected') throw copied.reason
}

/** Unpacks the tar stream at standard input below a directory of a guest, which is made if it is missing. */
export async function tarToGuest(session: Session, plan: TarPlan): Promise<void> {
  const [{ copyIn }, tar] = await Promise.all([import('../../client/copy.ts'), import('modern-tar')])
  const { http, instances } = session.client
  const there = await instances.stat(plan.instance, { path: plan.path, follow_links: true }, { signal: session.signal })
  if (there.exists && there.is_dir !== true)
    throw new Error(`${plan.path} of ${plan.instance} is not a directory: a tar stream is unpacked into one`)
  const put = async (name: string, directory: boolean, mode: number, owner: Owner, data?: AsyncIterable<Uint8Array>): Promise<void> => {
    const owners = plan.owners ? owner : {}
    await copyIn(http, plan.instance, { path: path.posix.join(plan.path, name), directory, mode, ...owners }, data, session.signal)
  }
  if (!there.exists) await put('.', true, 0o755, {})
  let left = 0
  let bytes = 0
  for await (const { header, body } of tarEntries(session.terminal.stdin, tar.createTarDecoder({ strict: true }))) {
    const name = safeName(header.name)
    const { mode, uid, gid, type = 'file' } = header
    if (type === 'directory') {
      if (name !== '') await put(name, true, (mode ?? 0o755) & 0o777, { uid, gid })
    } else if (type === 'file') {
      const counting = async function* (): AsyncGenerator<Uint8Array> {
        for await (const chunk of body) {
          plan.tell((bytes += chunk.length))
          yield chunk
        }
      }
      await put(name, false, (mode ?? 0o644) & 0o777, { uid, gid }, counting())
      continue
    } else left += 1
    await body.cancel()
  }
  if (left > 0) session.note(`${left} links and special files were left out: only files and directories can be copied into a guest`)
}

interface Owner {
  readonly uid?: number | undefined
  readonly gid?: number | undefined
}

type Decoder = ReturnType<typeof createTarDecoder>

function tarEntries(stdin: Input, decoder: Decoder): Decoder['readable'] {
  return (Readable.toWeb(stdin) as ReadableStream<Uint8Array>).pipeThrough(decoder)
}

/** Names in a tar stream are relative and stay below; `./a/` is `a`. */
function safeName(name: string): string {
  const segments = name.split('/').filter((segment) => segment !== '' && segment !== '.')
  if (name.startsWith('/') || segments.includes('..'))
    throw new Error(`the tar stream names '${name}', which could lie outside of the destination`)
  return segments.join('/')
}
