// Reads a guest's wall clock between two looks at the host's, so that what is said about it is certain however slow the guest and the host are.

import { openExec } from '../../src/client/exec.ts'
import type { TestServer } from './server.ts'

/** A bracket that is no wider tells an error of twice the promise of 50 ms from none, whichever side it is on. In milliseconds. */
const NARROW_MS = 50
/** How often the clock is read at most. A guest under emulation needs 10 to 30 ms to start a program, more on a busy host. */
const READINGS = 400
const LIMIT_MS = 120_000

/** By how much a guest's clock is ahead of the host's at the least and at the most, in milliseconds; behind it is negative. */
export interface ClockBounds {
  readonly least: number
  readonly most: number
}

/** The narrowest of several readings; an error if none is narrow enough to tell anything. */
export async function readClock(server: Pick<TestServer, 'url' | 'token'>, id: string): Promise<ClockBounds> {
  const command = ['/bin/sh', '-c', 'while read -r _; do adjtimex | sed -n "s/^ *time.tv_[us]*sec: *//p" | xargs; done']
  using exec = await openExec({ baseUrl: server.url, token: server.token }, id, { command, tty: false }, AbortSignal.timeout(LIMIT_MS))
  const outputs = exec.outputs()
  let narrowest: ClockBounds = { least: -Infinity, most: Infinity }
  for (let reading = 0; reading < READINGS && widthOf(narrowest) > NARROW_MS; reading += 1) {
    const before = Date.now()
    await exec.write(Buffer.from('\n'))
    const guest = await nextTime(outputs)
    // The host's clock is read in whole milliseconds, cut off.
    const bounds = boundsOf(before, guest, Date.now() + 1)
    if (widthOf(bounds) < widthOf(narrowest)) narrowest = bounds
  }
  if (widthOf(narrowest) > NARROW_MS)
    throw new Error(
      `the guest's clock can't be read to ${NARROW_MS} ms here: the narrowest of ${READINGS} readings took ${widthOf(narrowest)} ms`,
    )
  return narrowest
}

/** What is certain of a clock that said `guest` between two instants of the host. */
export function boundsOf(before: number, guest: number, after: number): ClockBounds {
  return { least: guest - after, most: guest - before }
}

/** How far it is off for certain, whichever side: 0 if the reading allows that it is right. */
export function provenOffset({ least, most }: ClockBounds): number {
  return Math.max(0, least, -most)
}

function widthOf({ least, most }: ClockBounds): number {
  return most - least
}

/** The guest's time in milliseconds since 1970, from a line that may come in parts: seconds and microseconds, which busybox's date does not tell. */
async function nextTime(outputs: ReturnType<Awaited<ReturnType<typeof openExec>>['outputs']>): Promise<number> {
  let line = ''
  while (!line.endsWith('\n')) {
    const { value } = await outputs.next()
    if (value?.kind !== 'output') throw new Error(`the guest has stopped telling the time: ${line}`)
    line += value.data.toString('utf8')
  }
  const [, seconds, microseconds] = /^(\d+) (\d+)\n$/.exec(line) ?? []
  if (seconds === undefined || microseconds === undefined) throw new Error(`the guest's adjtimex says no time: ${line}`)
  return Number(seconds) * 1000 + Number(microseconds) / 1000
}
