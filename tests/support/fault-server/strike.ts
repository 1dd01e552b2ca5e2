// Decides at each step and call whether the order of the test strikes here, and does what it says.

import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import { constants } from 'node:os'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { readOrder, report, type Order } from './order.ts'

/** Until a killed VMM must be gone, and how often it is looked at, in milliseconds. */
const VMM_GONE_MS = 5_000
const VMM_POLL_MS = 2
/** How often it is looked whether there is another order, in milliseconds. */
const HOLD_POLL_MS = 5

export interface Striker {
  /** Before or after a step. */
  step(step: string, when: 'before' | 'after', site: string | undefined): Promise<void>
  /** Before a call: throws the fault, or ends the process; `half` of a write is to be done before that. */
  call(call: Call): 'whole' | 'half'
  end(): never
}

export interface Call {
  readonly name: string
  readonly path: string
  /** It may need room on the disk. */
  readonly takesSpace: boolean
  readonly isWrite: boolean
}

export function createStriker(directory: string, dataDirectory: string): Striker {
  let counted = { order: 0, calls: 0, struck: false, repeated: new Map<string, number>() }
  const current = (): Order => {
    const order = readOrder(directory)
    if (order.id !== counted.order) counted = { order: order.id, calls: 0, struck: false, repeated: new Map() }
    return order
  }
  /** Once, or from now on if the order lasts. */
  const strikes = (order: Order, what: string): boolean => {
    if (counted.struck && !order.lasting) return false
    if (!counted.struck) report(directory, { order: order.id, kind: 'struck', what })
    counted.struck = true
    return true
  }
  const end = (): never => {
    process.kill(process.pid, constants.signals.SIGKILL)
    throw new Error('nothing comes after the signal')
  }
  /** Of the many writes that make one large file: the first, second, fourth, and so on. A lasting fault comes from all. */
  const counts = ({ name }: Call, place: string): boolean => {
    const times = (counted.repeated.get(place) ?? 0) + 1
    counted.repeated.set(place, times)
    return name !== 'write' || counted.struck || Number.isInteger(Math.log2(times))
  }
  return {
    end,
    async step(step, when, site) {
      const order = current()
      report(directory, {
        order: order.id,
        kind: when === 'before' ? 'step' : 'passed',
        what: step,
        ...(site === undefined ? {} : { site }),
      })
      if (order.at === 'nowhere' || !('step' in order.at) || order.at.step !== step || order.at.when !== when) return
      const place = `${when} ${step}`
      if (order.what === 'vmm') {
        const killed = await killVmms(dataDirectory, order.spared)
        if (killed > 0) strikes(order, place)
      } else if (order.what === 'hold') {
        if (strikes(order, place)) while (readOrder(directory).id === order.id) await delay(HOLD_POLL_MS)
      } else if (order.what === 'abort') {
        if (strikes(order, place)) abortFilesystem(dataDirectory)
      } else if (strikes(order, place)) {
        if (order.what === 'kill') end()
        throw faultOf(order.what, place)
      }
    },
    call(call) {
      const order = current()
      const place = `${call.name} ${path.relative(dataDirectory, call.path)}`
      if (order.what === 'enospc' && !call.takesSpace) return 'whole'
      if (!counts(call, place)) return 'whole'
      counted.calls += 1
      report(directory, { order: order.id, kind: 'call', what: place })
      if (order.at === 'nowhere' || !('call' in order.at) || counted.calls < order.at.call || !strikes(order, place)) return 'whole'
      if (order.what === 'kill') return call.isWrite ? 'half' : end()
      throw faultOf(order.what, place)
    },
  }
}

function faultOf(what: Order['what'], place: string): Error {
  switch (what) {
    case 'enospc':
      return Object.assign(new Error(`ENOSPC: no space left on device, ${place} (injected)`), { code: 'ENOSPC', errno: -28 })
    case 'eio':
      return Object.assign(new Error(`EIO: i/o error, ${place} (injected)`), { code: 'EIO', errno: -5 })
    case 'throw':
      return new Error(`fault injected ${place}`)
    case 'kill':
    case 'vmm':
    case 'hold':
    case 'abort':
      throw new Error(`${what} is no error`)
    default:
      return what satisfies never
  }
}

/** ext4(5): the mount option "abort" does what an error of the disk does. The filesystem must be mounted right above the data directory. */
function abortFilesystem(dataDirectory: string): void {
  execFileSync('mount', ['-o', 'remount,abort', path.dirname(dataDirectory)])
}

/** Ends all VMMs below the data directory but the spared ones, waits until they are gone, and returns how many there were. */
async function killVmms(dataDirectory: string, spared: readonly number[]): Promise<number> {
  const found = fs
    .readdirSync('/proc')
    .map(Number)
    .filter(
      (pid) => Number.isInteger(pid) && !spared.includes(pid) && (workingDirectory(pid) ?? '').startsWith(`${dataDirectory}/instances/`),
    )
  for (const pid of found) process.kill(pid, constants.signals.SIGKILL)
  const deadline = performance.now() + VMM_GONE_MS
  for (const pid of found)
    while (workingDirectory(pid) !== undefined) {
      if (performance.now() > deadline) throw new Error(`the VMM ${pid} does not end`)
      await delay(VMM_POLL_MS)
    }
  return found.length
}

/** Undefined for who has ended; a zombie has none either. */
function workingDirectory(pid: number): string | undefined {
  try {
    return fs.readlinkSync(`/proc/${pid}/cwd`)
  } catch {
    return undefined // it has ended, or is none of ours
  }
}
