// What a VMM process takes of the host's processors and memory: proc(5).

import { readFile } from 'node:fs/promises'
import { cpuTicksOf } from '../platform/process.ts'

/** USER_HZ and the page size of x86-64 and arm64 Linux; sysconf(3). */
const TICKS_PER_SECOND = 100
const PAGE_BYTES = 4096

interface Usage {
  readonly cpuSeconds: number
  readonly residentBytes: number
  readonly virtualBytes: number
  /** Undefined where the kernel does not tell. */
  readonly shares: Shares | undefined
}

interface Shares {
  readonly privateBytes: number
  readonly sharedBytes: number
  readonly proportionalBytes: number
}

export const noUsage: Usage = { cpuSeconds: 0, residentBytes: 0, virtualBytes: 0, shares: undefined }

export async function usageOf(pid: number): Promise<Usage> {
  try {
    const [pages = '0', residentPages = '0'] = (await readFile(`/proc/${pid}/statm`, 'utf8')).split(' ')
    return {
      cpuSeconds: (cpuTicksOf(pid) ?? 0) / TICKS_PER_SECOND,
      residentBytes: Number(residentPages) * PAGE_BYTES,
      virtualBytes: Number(pages) * PAGE_BYTES,
      shares: await sharesOf(pid),
    }
  } catch {
    return noUsage // the process has just ended
  }
}

/** proc(5), smaps_rollup; readable by who may trace the process. */
async function sharesOf(pid: number): Promise<Shares | undefined> {
  const text = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8').catch(() => undefined) // not on this kernel, or not for us
  if (text === undefined) return undefined
  const bytes = (name: string): number => Number(new RegExp(`^${name}: +(\\d+) kB$`, 'm').exec(text)?.[1] ?? 0) * 1024
  return {
    privateBytes: bytes('Private_Clean') + bytes('Private_Dirty'),
    sharedBytes: bytes('Shared_Clean') + bytes('Shared_Dirty'),
    proportionalBytes: bytes('Pss'),
  }
}
