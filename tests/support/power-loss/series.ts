// Servers one after the other in one process, which spares each the start of Node: a line of input is a data directory to serve from then on, an
// empty line ends what is served. Everything is told on standard output, in JSON lines. On stand-ins if HYPEMAN_STAND_IN names their program.

import { createInterface } from 'node:readline'
import { serve } from '../../../src/compose.ts'
import type { MakeDrivers } from '../../../src/drivers.ts'
import { createStandIns } from '../stand-in-hypervisor/driver.ts'

const program = process.env['HYPEMAN_STAND_IN']
const standIns: MakeDrivers = async () => (program === undefined ? [] : createStandIns(program))

let stop = new AbortController()
let serving: Promise<void> = Promise.resolve()

for await (const line of createInterface({ input: process.stdin })) {
  stop.abort()
  await serving
  stop = new AbortController()
  if (line !== '') serving = serveDirectory(line, stop.signal)
}

async function serveDirectory(dataDir: string, signal: AbortSignal): Promise<void> {
  const outcome = await serve({ dataDir, port: 0, host: '127.0.0.1' }, signal, ...(program === undefined ? [] : [standIns])).then(
    () => ({ msg: 'ended' }),
    (error: unknown) => ({ msg: 'ended', error: error instanceof Error ? error.message : String(error) }),
  )
  console.log(JSON.stringify(outcome))
}
