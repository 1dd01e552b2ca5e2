// Copying over a WebSocket: the first frame says what and in which direction. One connection is one file or directory into a guest, or a whole tree out of it.

import { z } from 'zod'
import type { AgentClient } from '../../agent/contract.ts'
import { copyFromGuest } from './copy-from.ts'
import { copyToGuest } from './copy-to.ts'
import { SocketGone, type Frame, type FrameSocket } from './frames.ts'
import { CopyError, wordsOf } from './words.ts'

const copyFrame = z.object({
  direction: z.string(),
  guest_path: z.string().min(1),
  is_dir: z.boolean().nullish(),
  mode: z.int().min(0).nullish(),
  uid: z.int().min(0).max(0xffff_ffff).nullish(),
  gid: z.int().min(0).max(0xffff_ffff).nullish(),
  follow_links: z.boolean().nullish(),
})

/** Serves one copy until it has ended. Never rejects. */
export async function serveCopy(
  socket: FrameSocket,
  findAgent: (signal: AbortSignal) => Promise<AgentClient>,
  stopping: AbortSignal,
): Promise<void> {
  const signal = AbortSignal.any([socket.gone, stopping])
  try {
    await copy(socket, parseRequest(await socket.next()), findAgent, signal)
  } catch (error) {
    if (!(error instanceof SocketGone) && !socket.gone.aborted) await sayWhy(socket, error)
  } finally {
    socket.close()
  }
}

type CopyFrame = z.infer<typeof copyFrame>

async function copy(
  socket: FrameSocket,
  request: CopyFrame,
  findAgent: (signal: AbortSignal) => Promise<AgentClient>,
  signal: AbortSignal,
): Promise<void> {
  const path = request.guest_path
  const { direction } = request
  if (direction !== 'to' && direction !== 'from') throw new CopyError(`invalid direction: ${direction} (must be 'to' or 'from')`)
  const agent = await findAgent(signal)
  if (direction === 'from') {
    await copyFromGuest(socket, agent, { path, followLinks: request.follow_links ?? false }, signal)
    return
  }
  const [uid, gid] = [request.uid ?? 0, request.gid ?? 0]
  const isDirectory = request.is_dir ?? false
  await copyToGuest(
    socket,
    agent,
    {
      path,
      isDirectory,
      mode: (request.mode ?? 0) & 0o7777 || (isDirectory ? 0o755 : 0o644),
      // Clients send zeros when they mean nothing by it.
      ...(uid > 0 && gid > 0 ? { uid, gid } : {}),
    },
    signal,
  )
}

function parseRequest(frame: Frame | undefined): CopyFrame {
  if (frame === undefined) throw new SocketGone()
  if (frame.kind !== 'text') throw new CopyError('first message must be JSON text')
  let json: unknown
  try {
    json = JSON.parse(frame.text)
  } catch (cause) {
    throw new CopyError(`invalid JSON: ${wordsOf(cause)}`, undefined, cause)
  }
  const { data, error } = copyFrame.safeParse(json)
  if (data !== undefined) return data
  const [issue] = error.issues
  throw new CopyError(`invalid request: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}`)
}

async function sayWhy(socket: FrameSocket, error: unknown): Promise<void> {
  const path = error instanceof CopyError ? error.path : undefined
  try {
    await socket.sendText({ type: 'error', message: wordsOf(error), ...(path === undefined ? {} : { path }) })
  } catch (gone) {
    // Nobody is left to be told.
    if (!(gone instanceof SocketGone)) throw gone
  }
}
