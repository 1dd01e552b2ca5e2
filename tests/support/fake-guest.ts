// Files of a guest that is not there, behind the copy WebSocket of a fake server: what was put in, and what comes out.

import type { WebSocket } from 'ws'
import type { FakeServer } from './fake-server.ts'

export interface FakeEntry {
  readonly path: string
  readonly mode?: number
  readonly is_dir?: true
  readonly is_symlink?: true
  readonly link_target?: string
  readonly mtime?: number
  /** Announced; by default that of the data. */
  readonly size?: number
  readonly data?: Buffer
}

export interface Written {
  readonly directory: boolean
  readonly mode: number
  readonly data: string
}

export interface FakeGuest {
  /** What was copied in, by path. */
  readonly written: ReadonlyMap<string, Written>
  /** What comes out for a path. */
  holds(path: string, entries: readonly FakeEntry[]): void
  /** What the server says about a path. */
  knows(path: string, info: Readonly<Record<string, unknown>>): void
}

/** Gives an instance of a fake server files. What is not known does not exist; copying to `/refused…` fails. */
export function addFakeGuest(server: FakeServer, instance: string): FakeGuest {
  const written = new Map<string, Written>()
  const held = new Map<string, readonly FakeEntry[]>()
  const known = new Map<string, Readonly<Record<string, unknown>>>()
  server.on(`GET /instances/${instance}/stat`, ({ query }) => ({ json: known.get(query.get('path') ?? '') ?? { exists: false } }))
  server.onSocket(`/instances/${instance}/cp`, async (socket, start) => {
    const path = String(start['guest_path'])
    if (start['direction'] === 'to') take(socket, start, path, written)
    else await give(socket, held.get(path))
  })
  return { written, holds: (path, entries) => void held.set(path, entries), knows: (path, info) => void known.set(path, info) }
}

function take(socket: WebSocket, start: Readonly<Record<string, unknown>>, path: string, written: Map<string, Written>): void {
  const chunks: Buffer[] = []
  socket.on('message', (data, isBinary) => {
    if (isBinary) return void chunks.push(data as Buffer)
    const bytes = Buffer.concat(chunks)
    if (path.startsWith('/refused')) socket.send(JSON.stringify({ type: 'result', success: false, error: 'read-only file system' }))
    else {
      written.set(path, { directory: start['is_dir'] === true, mode: Number(start['mode']), data: bytes.toString('utf8') })
      socket.send(JSON.stringify({ type: 'result', success: true, bytes_written: bytes.length }))
    }
    socket.close()
  })
}

async function give(socket: WebSocket, entries: readonly FakeEntry[] | undefined): Promise<void> {
  if (entries === undefined) {
    socket.send(JSON.stringify({ type: 'error', message: 'stat: no such file or directory' }))
    return socket.close()
  }
  for (const [index, { data = Buffer.alloc(0), ...entry }] of entries.entries()) {
    socket.send(
      JSON.stringify({ type: 'header', mode: 0o644, is_dir: false, mtime: 1_700_000_000, size: data.length, uid: 0, gid: 0, ...entry }),
    )
    for (let at = 0; at < data.length; at += 32_768) await sendPiece(socket, data.subarray(at, at + 32_768))
    socket.send(JSON.stringify({ type: 'end', final: index === entries.length - 1 }))
  }
  socket.close()
}

async function sendPiece(socket: WebSocket, piece: Buffer): Promise<void> {
  await new Promise<void>((resolve, reject) => socket.send(piece, (error) => (error ? reject(error) : resolve())))
}
