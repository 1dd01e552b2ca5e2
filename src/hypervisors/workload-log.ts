// Brings what the program writes to the instance's log, for VMMs that have no device for it: the guest agent keeps the last of it, and tells it to whoever asks (guest/protocol.md, section 5).
// A guest that is frozen, or a server that is killed, loses none of what the agent still keeps: each connection says how much is in the log already.

import { randomBytes } from 'node:crypto'
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { open, type FileHandle } from 'node:fs/promises'
import type { Socket } from 'node:net'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { z } from 'zod'
import { instanceFiles } from '../files/layout.ts'
import { messageOf } from '../platform/flow.ts'

/** Beside the log: which byte of the guest's output the byte at a position of the file is. From there on they go together. */
const positionFile = 'logs/app.position'
const position = z.object({ bytes: z.int().nonnegative(), offset: z.int().nonnegative() })

/** Until a broken connection is opened again, in milliseconds. */
const AGAIN_MS = 50
/** Longest line before a frame, in bytes. */
const LONGEST_LINE = 64
/** Longest frame, in bytes. */
const LONGEST_FRAME = 65_536

export interface LogFollower {
  /** Bytes of the guest's output that are in the log. */
  readonly offset: number
  /** Settles when nothing more comes: it was stopped, or the machine has ended and all that it said is in the log. */
  readonly done: Promise<void>
  /** Ends the connection, which the guest's end does not know of any more; another one is opened. */
  reconnect(): void
  stop(): void
}

export interface FollowOptions {
  /** The instance's, as it is called now. */
  readonly directory: () => string
  /** Bytes of the guest's output that are not wanted: a new guest's are all wanted. Undefined: those that are in the log. */
  readonly after: number | undefined
  /** Opens the stream to the guest; rejects when the signal aborts. */
  readonly connect: (signal: AbortSignal) => Promise<Socket>
  /** Settles when the machine has ended. */
  readonly ended: Promise<unknown>
}

export function followLog({ directory, after, connect, ended }: FollowOptions): LogFollower {
  const stopped = new AbortController()
  let [offset, over, isTold] = [after ?? offsetInLog(directory()), false, false]
  let socket: Socket | undefined
  let attempt = new AbortController()
  ended.then(
    () => {
      over = true
      if (socket === undefined) stopped.abort()
    },
    () => undefined, // it never rejects
  )
  const follow = async (): Promise<void> => {
    while (!stopped.signal.aborted) {
      try {
        attempt = new AbortController()
        socket = await connect(AbortSignal.any([stopped.signal, attempt.signal]))
        socket.on('error', () => undefined) // the loop hears of it, and late ones are of no use
        // Whoever stopped it, or wanted another connection, may have done so while this one was made.
        stopped.signal.throwIfAborted()
        attempt.signal.throwIfAborted()
        await using log = openLog(directory)
        for await (const frame of framesOf(socket, offset)) {
          offset = await log.append(frame, offset)
          isTold = false
          socket.write(`ACK ${offset}\n`)
        }
      } catch (error) {
        // The connection broke, or the log can't be written just now: what is not in it is asked for again.
        if (error instanceof LogError && !isTold && !stopped.signal.aborted) {
          isTold = true
          process.emitWarning(error.message)
        }
      }
      socket?.destroy()
      socket = undefined
      if (over) return
      await delay(AGAIN_MS, undefined, { signal: stopped.signal }).catch(() => undefined) // then the loop ends
    }
  }
  const done = follow()
  return {
    done,
    get offset() {
      return offset
    },
    reconnect() {
      attempt.abort()
      socket?.destroy()
    },
    stop() {
      stopped.abort()
      socket?.destroy()
    },
  }
}

interface Frame {
  /** Of its first byte. */
  readonly offset: number
  readonly data: Buffer
}

/** Asks for the log and yields what comes; ends with the stream. What does not follow the protocol is an error. */
async function* framesOf(stream: Socket, after: number): AsyncGenerator<Frame> {
  const nonce = randomBytes(8).toString('hex')
  stream.write(`\nLOG ${nonce} ${after}\n`)
  const answer = Buffer.from(`\nLOG ${nonce}\n`)
  let rest: Buffer = Buffer.alloc(0)
  let answered = false
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    if (!answered) {
      // Before it comes the rest of what the guest said to another host.
      const at = rest.indexOf(answer)
      if (at < 0) {
        rest = rest.subarray(Math.max(0, rest.length - answer.length))
        continue
      }
      answered = true
      rest = rest.subarray(at + answer.length)
    }
    for (;;) {
      const frame = frameIn(rest)
      if (frame === undefined) break
      rest = rest.subarray(frame.bytes)
      yield frame
    }
  }
}

/** The first frame; undefined if it has not come whole. */
function frameIn(bytes: Buffer): (Frame & { readonly bytes: number }) | undefined {
  const end = bytes.indexOf(0x0a)
  if (end < 0 && bytes.length <= LONGEST_LINE) return undefined
  const match = /^DATA (\d{1,15}) (\d{1,5})$/.exec(bytes.toString('latin1', 0, Math.max(0, end)))
  if (match === null) throw new Error('the guest agent does not keep to the protocol of its log')
  const [offset, length] = [Number(match[1]), Number(match[2])]
  if (length > LONGEST_FRAME) throw new Error('the guest agent sends a frame that is too long')
  const until = end + 1 + length
  return bytes.length < until ? undefined : { offset, data: bytes.subarray(end + 1, until), bytes: until }
}

class LogError extends Error {}

interface OpenLog extends AsyncDisposable {
  /** Appends what the log has not. Returns how much it has. What can't be written is a `LogError`. */
  append(frame: Frame, has: number): Promise<number>
}

/** The log while a connection lasts: open, and with its position at hand. */
function openLog(directory: () => string): OpenLog {
  let file: FileHandle | undefined
  let noted = readPosition(directory())

  /** Its size; opened again if somebody has removed it. */
  const sizeNow = async (): Promise<{ readonly handle: FileHandle; readonly size: number }> => {
    const stats = await file?.stat()
    if (file !== undefined && stats !== undefined && stats.nlink > 0) return { handle: file, size: stats.size }
    await file?.close()
    file = undefined
    file = await open(path.join(directory(), instanceFiles.appLog), 'a', 0o600)
    return { handle: file, size: (await file.stat()).size }
  }
  /** Written where the two have not gone together so far: at the begin, and behind what was lost or cut off. */
  const notePosition = (size: number, offset: number): void => {
    if (noted !== undefined && noted.bytes <= size && noted.offset + (size - noted.bytes) === offset) return
    noted = { bytes: size, offset }
    writeFileSync(path.join(directory(), positionFile), JSON.stringify(noted), { mode: 0o600 })
  }
  const append = async ({ offset, data }: Frame, has: number): Promise<number> => {
    const until = offset + data.length
    if (until <= has) return has
    const { handle, size } = await sizeNow()
    const lost = offset > has ? Buffer.from(`\n[hypeman: ${offset - has} bytes of output were lost while nobody could take them]\n`) : ''
    await handle.appendFile(lost)
    notePosition(size + lost.length, Math.max(offset, has))
    await handle.appendFile(data.subarray(Math.max(0, has - offset)))
    return until
  }
  return {
    async append(frame, has) {
      try {
        return await append(frame, has)
      } catch (cause) {
        const place = path.join(directory(), instanceFiles.appLog)
        throw new LogError(
          `the program's output can't be written to ${place} (${messageOf(cause)}); it is tried again, and what the guest can't keep until then is lost`,
          { cause },
        )
      }
    },
    async [Symbol.asyncDispose]() {
      await file?.close()
    },
  }
}

/** How much of the guest's output is in the log; 0 if nobody can tell, as after its rotation: then some of it comes twice. */
function offsetInLog(directory: string): number {
  const noted = readPosition(directory)
  const size = statSync(path.join(directory, instanceFiles.appLog), { throwIfNoEntry: false })?.size
  return noted === undefined || size === undefined || size < noted.bytes ? 0 : noted.offset + (size - noted.bytes)
}

function readPosition(directory: string): z.infer<typeof position> | undefined {
  try {
    return position.safeParse(JSON.parse(readFileSync(path.join(directory, positionFile), 'utf8'))).data
  } catch {
    return undefined // there is none, or it was cut off when it was written
  }
}
