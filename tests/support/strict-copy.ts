// Takes what is copied out of a guest as the strictest client does: every field has its type, no number is negative, and no file has more or less than it says.

import assert from 'node:assert/strict'
import type { WebSocket } from 'ws'
import { z } from 'zod'

const count = z.int().min(0)
const frame = z.discriminatedUnion('type', [
  z.object({
    type: z.literal('header'),
    path: z.string().min(1),
    mode: count.max(0o777),
    size: count,
    mtime: count,
    uid: count.optional(),
    gid: count.optional(),
    is_dir: z.boolean(),
    is_symlink: z.boolean().optional(),
    link_target: z.string().optional(),
  }),
  z.object({ type: z.literal('end'), final: z.boolean() }),
])

type Header = Extract<z.infer<typeof frame>, { type: 'header' }>

export interface Copied {
  readonly path: string
  readonly kind: 'file' | 'directory' | 'link'
  readonly mode: number
  readonly content: Buffer
  readonly link: string | undefined
}

/** Resolves with all entries as soon as the last one has ended. */
export function readStrictly(socket: WebSocket): Promise<readonly Copied[]> {
  const { promise, resolve, reject } = Promise.withResolvers<readonly Copied[]>()
  const copied: Copied[] = []
  let open: { readonly header: Header; readonly chunks: Buffer[] } | undefined
  const take = (data: Buffer, isBinary: boolean): void => {
    if (isBinary) {
      assert.ok(open !== undefined && kindOf(open.header) === 'file', 'data belongs to a file')
      open.chunks.push(data)
      return
    }
    const one = frame.parse(JSON.parse(data.toString('utf8')))
    if (one.type === 'header') {
      assert.equal(open, undefined, 'an entry ends before the next begins')
      checkPath(one.path)
      open = { header: one, chunks: [] }
      return
    }
    assert.ok(open !== undefined, 'an entry has begun')
    const { header, chunks } = open
    const content = Buffer.concat(chunks)
    assert.equal(content.length, kindOf(header) === 'file' ? header.size : 0, header.path)
    copied.push({ path: header.path, kind: kindOf(header), mode: header.mode, content, link: header.link_target })
    open = undefined
    if (one.final) resolve(copied)
  }
  socket.on('message', (data: Buffer, isBinary) => {
    try {
      take(data, isBinary)
    } catch (error) {
      reject(error as Error)
    }
  })
  socket.once('close', () => reject(new Error('the copy ended before its last entry')))
  return promise
}

function kindOf(header: Header): Copied['kind'] {
  if (header.is_dir) return 'directory'
  return header.is_symlink === true ? 'link' : 'file'
}

function checkPath(path: string): void {
  assert.ok(!path.startsWith('/') && !path.includes('\\'), path)
  assert.ok(
    path.split('/').every((part) => part !== '' && part !== '..'),
    path,
  )
}
