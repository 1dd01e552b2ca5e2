// From a path here into a guest, as cp does it: into a directory that is there, else under the given name. Links are copied as what they lead to, where that
// is a file: the wire has no links in this direction.

import { createReadStream, type Stats } from 'node:fs'
import { lstat, opendir, stat } from 'node:fs/promises'
import path from 'node:path'
import type { copyIn } from '../../client/copy.ts'
import type { Session } from '../context.ts'
import { contentsOnly, endsAsDirectory } from './places.ts'

export interface CopyToPlan {
  readonly instance: string
  readonly source: string
  readonly destination: string
  /** Also follow links to directories. */
  readonly followLinks: boolean
  readonly owners: boolean
  /** Told the bytes so far. */
  readonly tell: (bytes: number) => void
}

interface Walk {
  readonly session: Session
  readonly plan: CopyToPlan
  readonly copyIn: typeof copyIn
  bytes: number
}

/** Resolves with the bytes that were copied. */
export async function copyToGuest(session: Session, plan: CopyToPlan): Promise<number> {
  const client = await import('../../client/copy.ts')
  const facts = await stat(plan.source)
  const target = await guestTarget(session, plan, facts.isDirectory())
  const walk: Walk = { session, plan, copyIn: client.copyIn, bytes: 0 }
  if (facts.isDirectory()) await copyDirectory(walk, plan.source, target, facts, [])
  else await copyFile(walk, plan.source, target, facts)
  return walk.bytes
}

/** Where the source goes: what the guest has at the destination decides. */
async function guestTarget(session: Session, plan: CopyToPlan, directory: boolean): Promise<string> {
  const { destination } = plan
  const there = await session.client.instances.stat(plan.instance, { path: destination, follow_links: true }, { signal: session.signal })
  if (there.error) throw new Error(`${destination} of ${plan.instance} could not be looked at: ${there.error}`)
  const base = path.basename(path.resolve(plan.source))
  const inside = path.posix.join(destination, base)
  if (there.is_dir === true) return directory && contentsOnly(plan.source) ? destination : inside
  if (there.exists && directory) throw new Error(`${destination} of ${plan.instance} is a file: a directory can't be copied to it`)
  return !there.exists && !directory && endsAsDirectory(destination) ? inside : destination
}

async function copyDirectory(walk: Walk, local: string, guest: string, facts: Stats, above: readonly string[]): Promise<void> {
  const self = `${facts.dev}:${facts.ino}`
  if (above.includes(self)) return walk.session.note(`${local} leads back to a directory that it is in, and is left out`)
  await walk.copyIn(walk.session.client.http, walk.plan.instance, entryFor(walk, guest, facts), undefined, walk.session.signal)
  for await (const { name } of await opendir(local)) {
    walk.session.signal.throwIfAborted()
    await copyInner(walk, path.join(local, name), path.posix.join(guest, name), [...above, self])
  }
}

async function copyInner(walk: Walk, local: string, guest: string, above: readonly string[]): Promise<void> {
  const own = await lstat(local)
  const facts = own.isSymbolicLink() ? await stat(local).catch(nothingIfMissing) : own
  if (facts === undefined) return walk.session.note(`${local} is a link to nothing, and is left out`)
  if (facts.isFile()) return await copyFile(walk, local, guest, facts)
  if (!facts.isDirectory()) return walk.session.note(`${local} is neither a file nor a directory, and is left out`)
  if (own.isSymbolicLink() && !walk.plan.followLinks)
    return walk.session.note(`${local} is a link to a directory, and is left out; --follow-links copies what it leads to`)
  await copyDirectory(walk, local, guest, facts, above)
}

async function copyFile(walk: Walk, local: string, guest: string, facts: Stats): Promise<void> {
  const { CHUNK_BYTES } = await import('../../client/streams.ts')
  const bytes = createReadStream(local, { highWaterMark: CHUNK_BYTES })
  await walk.copyIn(walk.session.client.http, walk.plan.instance, entryFor(walk, guest, facts), count(walk, bytes), walk.session.signal)
}

function entryFor(walk: Walk, guest: string, facts: Stats): Parameters<Walk['copyIn']>[2] {
  const owners = walk.plan.owners ? { uid: facts.uid, gid: facts.gid } : {}
  return { path: guest, directory: facts.isDirectory(), mode: facts.mode & 0o777, ...owners }
}

async function* count(walk: Walk, bytes: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  for await (const chunk of bytes) {
    walk.plan.tell((walk.bytes += chunk.length))
    yield chunk
  }
}

function nothingIfMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ENOENT' && error.code !== 'ELOOP') throw error
}
