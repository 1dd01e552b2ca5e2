// Out of a guest: the agent's tar stream as frames, entry by entry, never more than a few chunks of it in memory.
// The guest is not trusted: its names are checked before a client joins them to a path of its own.

import path from 'node:path'
import { Readable } from 'node:stream'
import { createTarDecoder, type ParsedTarEntry, type TarHeader } from 'modern-tar'
import type { AgentClient } from '../../agent/contract.ts'
import { LONGEST_FRAME, SocketGone, type FrameSocket } from './frames.ts'
import { CopyError, wordsOf } from './words.ts'

export interface CopyFrom {
  readonly path: string
  readonly followLinks: boolean
}

export async function copyFromGuest(socket: FrameSocket, agent: AgentClient, request: CopyFrom, signal: AbortSignal): Promise<void> {
  const archive = await readArchive(agent, request, signal)
  try {
    await sendEntries(socket, archive, request)
  } catch (error) {
    if (error instanceof SocketGone || error instanceof CopyError) throw error
    throw new CopyError(wordsOf(error), request.path, error)
  } finally {
    archive.destroy()
  }
}

async function readArchive(agent: AgentClient, request: CopyFrom, signal: AbortSignal): Promise<Readable> {
  try {
    const archive = await agent.readArchive(request.path, request.followLinks, signal)
    archive.on('error', () => undefined) // told by whoever reads it
    return archive
  } catch (error) {
    throw new CopyError(wordsOf(error), request.path, error)
  }
}

/** The last entry is marked, so each end is sent when it is known whether another entry comes. */
async function sendEntries(socket: FrameSocket, archive: Readable, request: CopyFrom): Promise<void> {
  const links: string[] = []
  let open = false
  for await (const entry of Readable.toWeb(archive).pipeThrough(createTarDecoder({ strict: true }))) {
    const header = headerFrame(entry.header, request.path)
    if (header === undefined) {
      if (entry.header.type === 'symlink') links.push(`${entry.header.name} → ${entry.header.linkname ?? ''}`)
      await entry.body.cancel()
      continue
    }
    if (open) await socket.sendText({ type: 'end', final: false })
    await socket.sendText(header)
    await sendBody(socket, entry)
    open = true
  }
  if (!open && links.length > 0)
    throw new CopyError(`a symbolic link that leads out of what is copied (${links.join(', ')}); copy with follow_links`, request.path)
  if (!open) throw new CopyError('nothing that can be copied: neither a file, a directory nor a symbolic link', request.path)
  await socket.sendText({ type: 'end', final: true })
  await socket.waitForGoodbye()
}

async function sendBody(socket: FrameSocket, entry: ParsedTarEntry): Promise<void> {
  for await (const chunk of entry.body)
    for (let at = 0; at < chunk.length; at += LONGEST_FRAME)
      for (const frame of notJson(chunk.subarray(at, at + LONGEST_FRAME))) await socket.sendBinary(frame)
}

/**
 * The TypeScript client can't tell text from binary frames: it drops data that is valid JSON, such as a small .json file. Sent as two frames, a lone bracket
 * and the rest, neither is.
 */
export function notJson(chunk: Uint8Array): Uint8Array[] {
  const [first] = chunk
  if (first !== 0x7b && first !== 0x5b) return [chunk]
  try {
    JSON.parse(Buffer.from(chunk).toString('utf8'))
  } catch {
    return [chunk] // what can't be parsed is taken for data
  }
  return [chunk.subarray(0, 1), ...notJson(chunk.subarray(1))]
}

const kinds: Readonly<Partial<Record<NonNullable<TarHeader['type']>, true>>> = { file: true, directory: true, symlink: true }

/** Undefined for what clients have no use for: devices, and links that would make them give up the whole copy. */
function headerFrame(header: TarHeader, guestPath: string): object | undefined {
  const type = header.type ?? 'file'
  if (kinds[type] !== true) return undefined
  const name = relativeName(header.name)
  const link = type === 'symlink' ? safeTarget(name, header.linkname ?? '', guestPath) : undefined
  if (type === 'symlink' && link === undefined) return undefined
  return {
    type: 'header',
    path: name,
    // Permissions alone: some clients give up the whole copy over a bit beyond them, and set-user-id of a guest's has no business on a host.
    mode: (header.mode ?? 0o644) & 0o777,
    is_dir: type === 'directory',
    ...(link === undefined ? {} : { is_symlink: true, link_target: link }),
    size: type === 'file' ? header.size : 0,
    // Of files from before 1970 it would be negative, which makes some clients give up the whole copy.
    mtime: Math.max(0, Math.floor((header.mtime?.getTime() ?? 0) / 1000)),
    uid: header.uid ?? 0,
    gid: header.gid ?? 0,
  }
}

function relativeName(name: string): string {
  const relative = path.posix.normalize(name.replace(/^\/+/, '')).replace(/\/+$/, '')
  if (leadsOut(relative)) throw new CopyError('the guest sent a path that leads out of what is copied', name)
  return relative === '' ? '.' : relative
}

/**
 * A link's target as clients accept it: relative, and inside of what is copied. An absolute target in there is made relative; one that leads elsewhere has no
 * meaning on the other side, so that link is left out.
 */
export function safeTarget(name: string, target: string, guestPath: string): string | undefined {
  const directory = path.posix.dirname(name)
  if (!path.posix.isAbsolute(target)) return target === '' || leadsOut(path.posix.join(directory, target)) ? undefined : target
  const root = path.posix.resolve('/', guestPath)
  const absolute = path.posix.resolve(target)
  if (absolute !== root && !absolute.startsWith(root === '/' ? root : `${root}/`)) return undefined
  return path.posix.relative(path.posix.resolve(root, root === '/' ? '.' : '..', directory), absolute) || '.'
}

function leadsOut(relative: string): boolean {
  return relative === '..' || relative.startsWith('../')
}
