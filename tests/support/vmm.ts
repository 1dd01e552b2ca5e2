// The VMM processes of a test server, found as an operator would: by their working directory below its data directory, or by what of it is mounted into their jail.

import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import path from 'node:path'
import type { TestServer } from './server.ts'
import { until } from './until.ts'

/** Pids of all VMMs that run for the server, in order. */
export function vmmsOf(server: Pick<TestServer, 'dataDirectory'>): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => Number.isInteger(pid) && (isBelow(workingDirectory(pid), server.dataDirectory) || isJailed(pid, server.dataDirectory)))
    .toSorted((one, other) => one - other)
}

/** Pid of the VMM of one instance. */
export function vmmOf(server: Pick<TestServer, 'dataDirectory'>, id: string): number {
  const record: unknown = JSON.parse(readFileSync(path.join(server.dataDirectory, 'instances', id, 'record.json'), 'utf8'))
  const { process: vmm } = record as { readonly process: { readonly pid: number } | null }
  if (vmm === null) throw new Error(`the instance ${id} has no VMM`)
  return vmm.pid
}

/** Ends an instance's VMM without warning. */
export async function killVmm(server: Pick<TestServer, 'dataDirectory'>, id: string): Promise<void> {
  process.kill(vmmOf(server, id), 'SIGKILL')
}

/** Ends all VMMs of a server, which need not run; resolves when nothing of theirs has a file open any more. */
export async function killVmms(server: Pick<TestServer, 'dataDirectory'>): Promise<void> {
  const pids = vmmsOf(server)
  for (const pid of pids) process.kill(pid, 'SIGKILL')
  // Until their parent has reaped them: before that a thread may still be ending.
  await until('the VMMs are gone', () => !pids.some((pid) => existsSync(`/proc/${pid}`)))
}

function workingDirectory(pid: number): string {
  try {
    return readlinkSync(`/proc/${pid}/cwd`)
  } catch {
    return '' // it has ended meanwhile, or is a kernel thread
  }
}

/**
 * The table of mounts has paths from the root of their file system, which need not be the host's: the data directory of a test has a name that no other has. What a stand-in runs its guest by is in
 * the same jail, and no VMM.
 */
function isJailed(pid: number, dataDirectory: string): boolean {
  const own = path.join('/', path.basename(path.dirname(dataDirectory)), path.basename(dataDirectory), '/')
  try {
    if (!/\0hypeman-[a-z0-9]{24}\0/.test(readFileSync(`/proc/${pid}/cmdline`, 'utf8'))) return false
    return readFileSync(`/proc/${pid}/mountinfo`, 'utf8')
      .split('\n')
      .some((line) => line.includes(own) && line.includes('/jail.tmp/out /out '))
  } catch {
    return false // it has ended meanwhile
  }
}

function isBelow(directory: string, root: string): boolean {
  return directory.startsWith(`${root}${path.sep}`)
}
