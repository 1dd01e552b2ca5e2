// The digest of what a program writes to its standard output: of a compressed file's contents, without room on disk for them.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { ContentHash, CONTENT_CHUNK } from './content-digest.ts'

export interface Output {
  readonly command: readonly string[]
  /** How much it writes; another length is an error. */
  readonly sizeBytes: number
}

/** Longest complaint of a program that is told on, in characters. */
const LONGEST_COMPLAINT = 500

/** Runs the command to its end. A command that fails is an error, and so is one that writes more or less than it should. */
export async function digestOutput({ command, sizeBytes }: Output, signal: AbortSignal): Promise<string> {
  signal.throwIfAborted()
  const [program = '', ...args] = command
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  const kill = (): void => void child.kill('SIGKILL')
  signal.addEventListener('abort', kill, { once: true })
  const ended = Promise.allSettled([once(child, 'close') as Promise<[code: number | null, name: string | null]>])
  let complaint = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (complaint = `${complaint}${text}`.slice(-LONGEST_COMPLAINT)))
  const [read] = await Promise.allSettled([readOutput(child.stdout, sizeBytes)])
  if (read.status === 'rejected') kill()
  const [end] = await ended
  signal.removeEventListener('abort', kill)
  signal.throwIfAborted()
  if (end.status === 'rejected') throw end.reason
  if (read.status === 'rejected') throw read.reason
  const [code, name] = end.value
  if (code !== 0) throw new Error(`${command.join(' ')} ended with ${name ?? `code ${code}`}: ${complaint.trim()}`)
  const { digest, bytes } = read.value
  if (bytes !== sizeBytes) throw new Error(`${bytes} bytes came out instead of ${sizeBytes}`)
  return digest
}

/** The digest is taken of blocks at their places: what comes in pieces of any length is gathered before. */
async function readOutput(output: AsyncIterable<Buffer>, sizeBytes: number): Promise<{ readonly digest: string; readonly bytes: number }> {
  const content = new ContentHash(sizeBytes)
  const gathered = Buffer.allocUnsafeSlow(CONTENT_CHUNK)
  let [at, held] = [0, 0]
  for await (const piece of output) {
    if (at + held + piece.length > sizeBytes) throw new Error(`more than ${sizeBytes} bytes came out`)
    for (let from = 0; from < piece.length;) {
      const taken = piece.copy(gathered, held, from)
      from += taken
      held += taken
      if (held < CONTENT_CHUNK) continue
      content.add(at, gathered)
      at += held
      held = 0
    }
  }
  content.add(at, gathered.subarray(0, held))
  return { digest: content.finish(), bytes: at + held }
}
