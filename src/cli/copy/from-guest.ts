// From a guest to a path here, as cp does it: into a directory that is there, else under the given name.

import { realpath, stat } from 'node:fs/promises'
import path from 'node:path'
import type { EntryOut } from '../../client/copy.ts'
import type { Session } from '../context.ts'
import { contentsOnly, endsAsDirectory } from './places.ts'
import { LocalTree } from './local-tree.ts'

export interface CopyFromPlan {
  readonly instance: string
  readonly source: string
  readonly destination: string
  readonly followLinks: boolean
  readonly owners: boolean
  /** Told the bytes so far. */
  readonly tell: (bytes: number) => void
}

/** Resolves with the bytes that were copied. */
export async function copyFromGuest(session: Session, plan: CopyFromPlan): Promise<number> {
  const { copyOut } = await import('../../client/copy.ts')
  const request = { path: guestSource(plan.source), followLinks: plan.followLinks }
  let target: Target | undefined
  let bytes = 0
  for await (const { entry, body } of copyOut(session.client.http, plan.instance, request, session.signal)) {
    target ??= await targetOf(plan, entry)
    const [, ...below] = entry.path.split('/')
    const counted = count(body, (chunk) => plan.tell((bytes += chunk)))
    await target.tree.add([...target.prefix, ...below], entry, counted)
  }
  await target?.tree.finish()
  return bytes
}

/** `dir/.` is asked for as `dir`: how much of it is copied is decided here. */
export function guestSource(source: string): string {
  const trimmed = source.replace(/(?:\/\.?)+$/, '')
  return trimmed === '' ? '/' : trimmed
}

interface Target {
  readonly tree: LocalTree
  /** Where the first entry goes, from the root of the tree. */
  readonly prefix: readonly string[]
}

/** Decided once the first entry says what the source is. */
async function targetOf(plan: CopyFromPlan, first: EntryOut): Promise<Target> {
  const { destination } = plan
  const base = first.path.split('/')[0] ?? ''
  const there = await stat(destination).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw error
  })
  if (there?.isDirectory() === true) {
    const tree = new LocalTree(await realpath(destination), plan)
    return { tree, prefix: (first.kind === 'directory' && contentsOnly(plan.source)) || base === '' || base === '.' ? [] : [base] }
  }
  if (there !== undefined) {
    if (first.kind === 'directory') throw new Error(`${destination} is a file: a directory can't be copied to it`)
    return { tree: new LocalTree(await realpath(destination), plan), prefix: [] }
  }
  if (first.kind !== 'directory' && endsAsDirectory(destination)) throw new Error(`there is no directory ${destination}`)
  const parent = path.dirname(path.resolve(destination))
  const realParent = await realpath(parent).catch((cause: unknown) => {
    throw new Error(`there is no directory ${parent}`, { cause })
  })
  return { tree: new LocalTree(path.join(realParent, path.basename(path.resolve(destination))), plan), prefix: [] }
}

async function* count(body: AsyncIterable<Buffer>, tell: (bytes: number) => void): AsyncGenerator<Buffer> {
  for await (const chunk of body) {
    tell(chunk.length)
    yield chunk
  }
}
