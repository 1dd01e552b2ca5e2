// What rows make guests do, over the API as a client would: write into memory, and echo.

import { openExec } from '../src/client/exec.ts'
import { shell } from '../tests/support/machine.ts'
import type { TestServer } from '../tests/support/server.ts'

const MEMORY = '/mnt/memory'
/** What one command writes: seconds under emulation, on a busy machine not yet a minute. */
const MIB_AT_ONCE = 64

/** A file system in the guest's memory with room for so much. */
export async function mountMemory(server: TestServer, id: string, mib: number): Promise<void> {
  await shell(server, id, `mkdir -p ${MEMORY} && mount -t tmpfs -o size=${mib + 16}m bench ${MEMORY}`)
}

/** Random bytes into a new file of that file system, by a small buffer: what `dd` needs for itself, the guest has written, too. */
export async function writeRandom(server: TestServer, id: string, mib: number, file: string): Promise<void> {
  await shell(server, id, `dd if=/dev/urandom of=${MEMORY}/${file} bs=64k count=${mib * 16} 2>/dev/null`)
}

/**
 * Fills that file system with bytes that are no zeros, at little cost for the guest: under emulation it writes the same random bytes
 * again and again at 90 MiB a second, new ones at 24, output of `yes` at 5 (November 2026).
 */
export async function fillMemory(server: TestServer, id: string, mib: number): Promise<void> {
  await writeRandom(server, id, MIB_AT_ONCE, 'fill-0')
  for (let done = MIB_AT_ONCE; done < mib; done += MIB_AT_ONCE)
    await shell(server, id, `dd if=${MEMORY}/fill-0 of=${MEMORY}/fill-${done} bs=1M count=${Math.min(MIB_AT_ONCE, mib - done)} 2>/dev/null`)
}

export interface Echoed<Result> {
  readonly result: Result
  /** The longest that the guest took to echo a byte meanwhile. */
  readonly stallMs: number
}

/** Until an echo is given up, in milliseconds: a first snapshot under emulation takes a minute. */
const ECHO_LIMIT_MS = 600_000

/** Sends bytes to a `cat` in the guest, one after the other, while something else happens. */
export async function whileEchoing<Result>(server: TestServer, id: string, act: () => Promise<Result>): Promise<Echoed<Result>> {
  const endpoint = { baseUrl: server.url, token: server.token }
  using exec = await openExec(endpoint, id, { command: ['cat'], tty: false }, AbortSignal.timeout(ECHO_LIMIT_MS))
  const outputs = exec.outputs()
  const echo = async (): Promise<number> => {
    const from = performance.now()
    await exec.write(Buffer.from('.'))
    const { value } = await outputs.next()
    if (value?.kind !== 'output') throw new Error('the echo ended')
    return performance.now() - from
  }
  await echo()
  let [going, stallMs] = [true, 0]
  const echoing = (async () => {
    while (going) stallMs = Math.max(stallMs, await echo())
  })()
  const [result] = await Promise.all([act().finally(() => (going = false)), echoing])
  return { result, stallMs }
}
