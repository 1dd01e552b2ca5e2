// Why a guest ended: the agent's last line on the kernel console (guest/protocol.md, section 4).

import { open } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { instanceFiles } from '../files/layout.ts'
import type { InstanceRecord } from './record.ts'

/** The line is within the last bytes of the console: nothing but the kernel's farewell follows it. */
const TAIL_BYTES = 16_384

const exitLine = z.object({
  exit_code: z.int().optional(),
  signal: z.string().optional(),
  oom: z.boolean().optional(),
  message: z.string().optional(),
})

/** Divides the console log into boots. */
export function bootMark(): string {
  return `HYPEMAN-BOOT ${new Date().toISOString()}\n`
}

/** The workload's end as far as the console of this boot tells; null when it says nothing. */
export async function exitOf(directory: string, record: Pick<InstanceRecord, 'programStartedAt'>): Promise<InstanceRecord['exit']> {
  const tail = await readTail(path.join(directory, instanceFiles.consoleLog))
  const start = tail.lastIndexOf('HYPEMAN-EXIT ')
  if (start < 0 || tail.lastIndexOf('HYPEMAN-BOOT') > start)
    return record.programStartedAt === null ? { code: null, message: 'the VM ended before its program was started' } : null
  const line = tail.slice(start + 'HYPEMAN-EXIT '.length).split(/\r?\n/, 1)[0] ?? ''
  return describeExit(line)
}

/** Words for one `HYPEMAN-EXIT` payload; exported for the test. */
export function describeExit(line: string): InstanceRecord['exit'] {
  const parsed = exitLine.safeParse(parseJson(line))
  if (!parsed.success) return { code: null, message: "the guest reported its end in a way that can't be read" }
  const { exit_code: code = null, signal, oom, message } = parsed.data
  const words = message ?? (signal === undefined ? `exited with code ${code}` : `killed by ${signal}`)
  return { code, message: oom === true ? `${words} - OOM` : words }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined // an unreadable line is reported by the caller as such
  }
}

async function readTail(file: string): Promise<string> {
  try {
    await using handle = await open(file, 'r')
    const { size } = await handle.stat()
    const length = Math.min(size, TAIL_BYTES)
    const { buffer } = await handle.read(Buffer.alloc(length), 0, length, size - length)
    return buffer.toString('utf8')
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return ''
    throw error
  }
}
