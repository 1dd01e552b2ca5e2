// What every operation answers that names an instance, a snapshot, a volume or an image which is not there, not one, or can't be read. Made from the operation's path.

import type { Ask } from './ask.ts'
import { common, namesake, unreadable, type ErrorWorld } from './world.ts'

/** Names that are wrong for what a path names first, by the error; absent: the error can't be. */
interface Wrong {
  readonly not_found: string
  readonly ambiguous?: string
  readonly conflict?: string
}

const wrong: Readonly<Record<string, Wrong>> = {
  instances: { not_found: 'nowhere', ambiguous: common, conflict: unreadable },
  snapshots: { not_found: 'nowhere', ambiguous: common, conflict: unreadable },
  volumes: { not_found: 'nowhere', ambiguous: namesake, conflict: unreadable },
  images: { not_found: 'nowhere' },
  pushes: { not_found: 'nowhere', ambiguous: common },
}

/** A body and query that are right, where there must be one. */
const right: Readonly<Record<string, Ask & { readonly query?: string }>> = {
  'POST /instances/{id}/fork': { body: { name: 'fresh' } },
  'POST /instances/{id}/snapshots': { body: { kind: 'Stopped' } },
  'POST /snapshots/{snapshotId}/fork': { body: { name: 'fresh' } },
  'POST /instances/{id}/volumes/{volumeId}': { body: { mount_path: '/x' } },
  'GET /instances/{id}/wait': { query: '?state=Running' },
  'GET /instances/{id}/stat': { query: '?path=/' },
  'PATCH /instances/{id}': { body: { tags: { a: 'b' } } },
  'PUT /instances/{id}/snapshot-schedule': { body: { interval: '2h', retention: { max_count: 2 } } },
  'POST /images/{name}/tag': { body: { target: 'other/name:1' } },
}

/** What can't be read is shown, and can be deleted. */
const takesUnreadable: ReadonlySet<string> = new Set([
  'GET /instances/{id}',
  'DELETE /instances/{id}',
  'DELETE /snapshots/{snapshotId}',
  'DELETE /volumes/{id}',
  'POST /snapshots/{snapshotId}/verify',
])

export interface Lookup extends Ask {
  readonly method: string
  path(world: ErrorWorld): string
}

/** A request of the operation that fails to find what it is about; undefined if that error is not one of finding things. */
export function lookup(operation: string, code: string): Lookup | undefined {
  const [method = '', path = ''] = operation.split(' ')
  const [, resource = ''] = path.split('/')
  const names = wrong[resource] ?? { not_found: 'nowhere' }
  const name = names[code as keyof Wrong]
  const [first] = /\{\w+\}/.exec(path) ?? []
  if (name === undefined || first === undefined || (code === 'conflict' && takesUnreadable.has(operation))) return undefined
  const { query = '', ...more } = right[operation] ?? (method === 'POST' ? { body: {} } : {})
  return {
    ...more,
    method,
    path: ({ shot }) => path.replace(first, name).replace('{snapshotId}', shot).replace('{volumeId}', 'shelf') + query,
  }
}
