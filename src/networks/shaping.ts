// Limits of bandwidth on a tap device, by tc(8): a token bucket on what goes to the guest, and another on a device of its own (ifb) through which goes what comes from it, since
// a device can only hold back what it sends.

import { messageOf } from '../platform/flow.ts'
import { runTool, type ToolRun } from '../platform/tool.ts'
import { isDevice } from './tap-device.ts'

/** In bytes per second; null: no limit. */
export interface Bandwidth {
  /** To the guest. */
  readonly downloadBytesPerSecond: number | null
  /** From the guest. */
  readonly uploadBytesPerSecond: number | null
}

/** At most so much is let through at once: what a limit lets through in 50 ms, so that the rate holds over any time that people notice, and never less than a few large packets. */
const BURST_SECONDS = 0.05
const SMALLEST_BURST = 32 * 1024
/** tc takes no more, in bytes. */
const LARGEST_BURST = 256 * 1024 ** 2
/** A tool of the network's that takes longer hangs, in milliseconds: it is ended, and what asked for it is told. */
export const TOOL_LIMIT_MS = 30_000
/** Packets wait so long for their turn before they are dropped. */
const LATENCY = '100ms'

/** Sets the limits of a device that has none. `shaper` is the name of the other device, which is made if it is needed. */
export async function setLimits(
  tap: string,
  shaper: string,
  { downloadBytesPerSecond: down, uploadBytesPerSecond: up }: Bandwidth,
): Promise<void> {
  if (up !== null) await makeShaper(shaper)
  const lines = [
    ...(down === null ? [] : [`qdisc replace dev ${tap} root ${bucketOf(down)}`]),
    ...(up === null
      ? []
      : [
          `qdisc replace dev ${shaper} root ${bucketOf(up)}`,
          `qdisc add dev ${tap} handle ffff: ingress`,
          `filter add dev ${tap} parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev ${shaper}`,
        ]),
  ]
  if (lines.length > 0) await runTool('tc', ['-batch', '-'], { ...toolLimits(), input: `${lines.join('\n')}\n` })
}

/** The tap's own limits go with it. */
export async function removeShaper(shaper: string): Promise<void> {
  if (!isDevice(shaper)) return
  await runTool('ip', ['link', 'delete', shaper], toolLimits())
}

/** Tells why no limit can be set here, by setting one on two devices that are gone afterwards; undefined if one can. That is found out once, and again after a failure. */
export function limitProbe(device: string, shaper: string): () => Promise<string | undefined> {
  let known: Promise<string | undefined> | undefined
  return () => {
    known ??= whyNoLimit(device, shaper).then((reason) => {
      if (reason !== undefined) known = undefined
      return reason
    })
    return known
  }
}

async function whyNoLimit(device: string, shaper: string): Promise<string | undefined> {
  try {
    await using undo = new AsyncDisposableStack()
    for (const one of [device, shaper]) undo.defer(() => removeShaper(one))
    await makeShaper(device)
    await setLimits(device, shaper, { downloadBytesPerSecond: 1e6, uploadBytesPerSecond: 1e6 })
    return undefined
  } catch (error) {
    return messageOf(error)
  }
}

async function makeShaper(name: string): Promise<void> {
  await removeShaper(name)
  await runTool('ip', ['-batch', '-'], { ...toolLimits(), input: `link add ${name} type ifb\nlink set ${name} up\n` })
}

function toolLimits(): ToolRun {
  return { cwd: '/', signal: new AbortController().signal, timeoutMs: TOOL_LIMIT_MS }
}

/** tc's `bps` are bytes per second. */
function bucketOf(bytesPerSecond: number): string {
  const burst = Math.min(LARGEST_BURST, Math.max(SMALLEST_BURST, Math.ceil(bytesPerSecond * BURST_SECONDS)))
  return `tbf rate ${bytesPerSecond}bps burst ${burst}b latency ${LATENCY}`
}
