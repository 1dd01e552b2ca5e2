// Files to and from a guest, over the copy WebSocket: one connection for each file or directory that goes in, one for all that come out.
// Where they come from or go to on this side is the caller's.

import { openFrames, parseObject, type Endpoint, type FrameStream } from './streams.ts'

export interface EntryIn {
  readonly path: string
  readonly directory: boolean
  /** Permission bits. */
  readonly mode: number
  /** Both above 0, or the server leaves ownership alone. */
  readonly uid?: number | undefined
  readonly gid?: number | undefined
}

/** What comes out of a guest; `path` is relative, stays below, and begins with the base name of what was asked for. */
export interface EntryOut {
  readonly path: string
  readonly kind: 'file' | 'directory' | 'symlink'
  readonly linkTarget: string
  /** Permission bits. */
  readonly mode: number
  /** Bytes that follow, for files. */
  readonly size: number
  /** Unix time in seconds. */
  readonly mtime: number
  readonly uid: number
  readonly gid: number
}

/** Makes a file or directory in a guest; missing parents are made, too. */
export async function copyIn(
  server: Endpoint,
  instance: string,
  entry: EntryIn,
  data: AsyncIterable<Uint8Array> | undefined,
  signal: AbortSignal,
): Promise<void> {
  using frames = await openCopy(server, instance, signal)
  const { path, directory, mode, uid = 0, gid = 0 } = entry
  await frames.send(JSON.stringify({ direction: 'to', guest_path: path, is_dir: directory, mode, uid, gid }))
  try {
    for await (const chunk of data ?? []) await frames.send(chunk)
    await frames.send(JSON.stringify({ type: 'end' }))
  } catch (error) {
    signal.throwIfAborted()
    // A server that refuses says why and closes, perhaps while we still send: its reason is the one to tell.
    const answer = await frames.next().catch(() => undefined)
    if (typeof answer === 'string') checkResult(answer, path)
    throw error
  }
  const answer = await frames.next()
  if (typeof answer !== 'string') throw new Error(`the server did not confirm that ${path} was written`)
  checkResult(answer, path)
}

function checkResult(frame: string, path: string): void {
  const message = parseObject(frame)
  if (message?.['type'] === 'result' && message['success'] === true) return
  throw new Error(
    `${path} could not be written in the guest: ${textOf(message?.['error']) ?? textOf(message?.['message']) ?? frame.slice(0, 200)}`,
  )
}

/** Yields what is at a path in a guest, directories before what is in them; the body is to be read before the next entry is asked for. */
export async function* copyOut(
  server: Endpoint,
  instance: string,
  request: { readonly path: string; readonly followLinks: boolean },
  signal: AbortSignal,
): AsyncGenerator<{ readonly entry: EntryOut; readonly body: AsyncIterable<Buffer> }> {
  using frames = await openCopy(server, instance, signal)
  await frames.send(JSON.stringify({ direction: 'from', guest_path: request.path, follow_links: request.followLinks }))
  for (let final = false; !final;) {
    const entry = parseEntry(await textFrame(frames, request.path))
    const body = bodyOf(frames, entry)
    yield { entry, body: body.chunks }
    final = await body.end()
  }
}

interface Body {
  readonly chunks: AsyncGenerator<Buffer>
  /** Reads what is left; resolves with whether this entry was the last. */
  end(): Promise<boolean>
}

function bodyOf(frames: FrameStream, entry: EntryOut): Body {
  let final: boolean | undefined
  let received = 0
  async function* read(): AsyncGenerator<Buffer> {
    for (;;) {
      const frame = await frames.next()
      if (frame === undefined) throw new Error(`the connection ended in the middle of ${entry.path}`)
      if (typeof frame === 'string') {
        const message = messageOf(frame, entry.path)
        if (message['type'] !== 'end') throw new Error(`the server sent ${JSON.stringify(message['type'])} in the middle of ${entry.path}`)
        if (entry.kind === 'file' && received !== entry.size)
          throw new Error(`${entry.path} came with ${received} bytes, but ${entry.size} were announced`)
        final = message['final'] === true
        return
      }
      received += frame.length
      yield frame
    }
  }
  const chunks = read()
  return {
    chunks,
    async end() {
      while (final === undefined)
        if ((await chunks.next()).done === true && final === undefined) throw new Error(`${entry.path} was not read to its end`)
      return final
    },
  }
}

async function textFrame(frames: FrameStream, path: string): Promise<Readonly<Record<string, unknown>>> {
  const frame = await frames.next()
  if (typeof frame !== 'string') throw new Error(`the server ended the copy of ${path} too early`)
  return messageOf(frame, path)
}

function messageOf(frame: string, path: string): Readonly<Record<string, unknown>> {
  const message = parseObject(frame)
  if (message === undefined) throw new Error(`the server sent what copy does not know: ${frame.slice(0, 200)}`)
  if (message['type'] === 'error')
    throw new Error(`${textOf(message['path']) ?? path} could not be copied: ${textOf(message['message']) ?? 'no reason given'}`)
  return message
}

function parseEntry(message: Readonly<Record<string, unknown>>): EntryOut {
  const path = textOf(message['path'])?.replace(/\/$/, '')
  if (message['type'] !== 'header' || path === undefined) throw new Error('the server sent an entry without a path')
  if (
    path.split('/').some((segment, index) => segment === '..' || segment.includes('\0') || (segment === '' && index > 0)) ||
    path.startsWith('/')
  )
    throw new Error(`the guest named a file '${path}', which could lie outside of the destination: nothing more is copied`)
  const kind = message['is_dir'] === true ? 'directory' : message['is_symlink'] === true ? 'symlink' : 'file'
  return {
    path,
    kind,
    linkTarget: textOf(message['link_target']) ?? '',
    mode: numberOf(message['mode']) & 0o777,
    size: numberOf(message['size']),
    mtime: numberOf(message['mtime']),
    uid: numberOf(message['uid']),
    gid: numberOf(message['gid']),
  }
}

function openCopy(server: Endpoint, instance: string, signal: AbortSignal): Promise<FrameStream> {
  return openFrames(server, `/instances/${encodeURIComponent(instance)}/cp`, signal)
}

function textOf(value: unknown): string | undefined {
  return typeof value === 'string' && value !== '' ? value : undefined
}

function numberOf(value: unknown): number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : 0
}
