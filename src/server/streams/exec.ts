// Exec over a WebSocket: the first frame says what to run; then bytes both ways; last the exit code.
// After a good start clients accept no text frame but `{"exitCode":n}`, so whatever goes wrong later is told as output.

import { z } from 'zod'
import type { AgentClient, ExecExit, ExecSession } from '../../agent/contract.ts'
import { LONGEST_FRAME, SocketGone, type Frame, type FrameSocket } from './frames.ts'
import { wordsOf } from './words.ts'

/** Of programs that could not be started, as a shell has it. */
const NOT_STARTED = 127
/** Of programs whose end nobody saw. Without any code the command-line client would report success. */
const UNSEEN_END = 255

const seconds = z
  .number()
  .min(0)
  .max(86_400 * 365)
const cells = z.int().min(0).max(65_535)

/** Go clients write empty lists and maps as null. */
const startFrame = z.object({
  command: z.array(z.string()).nullish(),
  tty: z.boolean().nullish(),
  env: z.record(z.string(), z.string()).nullish(),
  cwd: z.string().nullish(),
  user: z.string().nullish(),
  timeout: seconds.nullish(),
  wait_for_agent: seconds.nullish(),
  rows: cells.nullish(),
  cols: cells.nullish(),
  /** Ours: text frames `{"eof":true}` end the input. Without it every other text frame is input, as in the reference. */
  stdin_eof: z.boolean().nullish(),
})

type StartFrame = z.infer<typeof startFrame>

const resizeFrame = z.strictObject({ resize: z.object({ rows: cells, cols: cells }) })
const eofFrame = z.strictObject({ eof: z.literal(true) })

/** Finds the agent; `waitMs` is how long the instance may take to be Running. */
export type FindAgent = (waitMs: number, signal: AbortSignal) => Promise<AgentClient>

/** Serves one session until it has ended on both sides. Rejects only by a fault of ours. */
export async function serveExec(socket: FrameSocket, findAgent: FindAgent, stopping: AbortSignal): Promise<void> {
  try {
    const start = parseStart(await socket.next())
    if (typeof start === 'string') await socket.sendText({ error: start })
    else await run(socket, start, findAgent, stopping)
  } catch (error) {
    if (!(error instanceof SocketGone)) throw error
  } finally {
    socket.close()
  }
}

/** What to run, or what is wrong with the frame. */
function parseStart(frame: Frame | undefined): StartFrame | string {
  if (frame === undefined) throw new SocketGone()
  if (frame.kind !== 'text') return 'first message must be JSON text'
  let json: unknown
  try {
    json = JSON.parse(frame.text)
  } catch (error) {
    return `invalid JSON: ${wordsOf(error)}`
  }
  const { data, error } = startFrame.safeParse(json)
  if (data !== undefined) return data
  const [issue] = error.issues
  return `invalid JSON: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}`
}

async function run(socket: FrameSocket, start: StartFrame, findAgent: FindAgent, stopping: AbortSignal): Promise<void> {
  const ended = AbortSignal.any([socket.gone, stopping])
  let session: ExecSession
  try {
    session = await startProgram(start, findAgent, ended)
  } catch (error) {
    await sendEnd(socket, { exitCode: NOT_STARTED, error: wordsOf(error) })
    return
  }
  const hangUp = (): void => session.hangUp()
  if (ended.aborted) hangUp()
  else ended.addEventListener('abort', hangUp, { once: true })
  try {
    const input = passInput(socket, session, start)
    const exit = await passOutput(socket, session, stopping)
    await sendEnd(socket, exit)
    socket.close()
    await input
  } finally {
    ended.removeEventListener('abort', hangUp)
    session.hangUp()
  }
}

async function startProgram(start: StartFrame, findAgent: FindAgent, signal: AbortSignal): Promise<ExecSession> {
  const agent = await findAgent((start.wait_for_agent ?? 0) * 1000, signal)
  return agent.exec(
    {
      argv: start.command ?? [],
      tty: start.tty ?? false,
      env: start.env ?? {},
      cwd: start.cwd ?? '',
      user: start.user ?? '',
      timeoutMs: Math.round((start.timeout ?? 0) * 1000),
      rows: start.rows || 24,
      cols: start.cols || 80,
    },
    signal,
  )
}

/** Ends when the connection has. Goes on reading whether or not output is read: a client may write everything before it reads anything. */
async function passInput(socket: FrameSocket, session: ExecSession, start: StartFrame): Promise<void> {
  for (let frame = await socket.next(); frame !== undefined; frame = await socket.next()) {
    try {
      await passFrame(frame, session, start)
    } catch {
      // A program that takes no more input has ended or will; how is told by its output and exit. What is left over is passed over.
    }
  }
}

function passFrame(frame: Frame, session: ExecSession, start: StartFrame): Promise<void> {
  if (frame.kind === 'binary') return session.write(frame.data)
  const json = parseJson(frame.text)
  const resize = resizeFrame.safeParse(json).data?.resize
  if (resize !== undefined) return start.tty === true ? session.resize(resize.rows, resize.cols) : Promise.resolve()
  if (start.stdin_eof === true && eofFrame.safeParse(json).success) return session.endInput()
  return session.write(Buffer.from(frame.text))
}

function parseJson(text: string): unknown {
  if (!text.startsWith('{')) return undefined
  try {
    return JSON.parse(text)
  } catch {
    return undefined // then it is input
  }
}

async function passOutput(socket: FrameSocket, session: ExecSession, stopping: AbortSignal): Promise<ExecExit> {
  try {
    for await (const { data } of session.output)
      for (let at = 0; at < data.length; at += LONGEST_FRAME) await socket.sendBinary(data.subarray(at, at + LONGEST_FRAME))
    return await session.exit
  } catch (error) {
    if (error instanceof SocketGone) throw error
    if (socket.gone.aborted) throw new SocketGone(error)
    return { exitCode: UNSEEN_END, error: stopping.aborted ? 'the server is stopping' : wordsOf(error) }
  }
}

async function sendEnd(socket: FrameSocket, exit: ExecExit): Promise<void> {
  if (exit.error !== undefined) await socket.sendBinary(Buffer.from(`Error: ${exit.error}\r\n`))
  await socket.sendText({ exitCode: exit.exitCode })
}
