// A process that takes one migration stream on a unix socket and splits it: node split-process.ts SOCKET BLOCK RAM_BYTES MEMORY_FILE STATE_FILE.
// It is a process of its own, since a stream that breaks off leaves the guest hanging for good: QEMU (7.2, migration.c) then stops to answer the write faults of a
// background snapshot. So it outlives the server, and reads the stream to its end whatever happens. The files are there when it
// prints `listening`; last comes one line of JSON. SIGTERM ends it as long as nobody has connected.

import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import { finished } from 'node:stream/promises'
import { isHypemanError } from '../../api/errors.ts'
import { messageOf } from '../../platform/flow.ts'
import { splitMigrationStream } from './migration-stream.ts'
import type { SplitResult } from './split.ts'

/** Until somebody must have connected, in milliseconds: whoever started this may be gone. */
const CONNECT_LIMIT_MS = 60_000

const [socketFile = '', block = '', ramBytes = '', memoryFile = '', stateFile = ''] = process.argv.slice(2)

// Nobody may be left to read what is printed.
process.stdout.on('error', () => undefined)

const [memory, state] = [await open(memoryFile, 'wx', 0o600), await open(stateFile, 'wx', 0o600)]
const server = createServer({ pauseOnConnect: true })
server.listen(socketFile)
await once(server, 'listening')
let connected = false
const giveUp = (): void => {
  if (connected) return
  rmSync(socketFile, { force: true })
  process.exit(1)
}
process.on('SIGTERM', giveUp)
setTimeout(giveUp, CONNECT_LIMIT_MS).unref()
process.stdout.write('listening\n')
const [socket] = (await once(server, 'connection')) as [Socket]
connected = true
server.close()
try {
  const bytes = await splitMigrationStream(piecesOf(socket), { block, ramBytes: Number(ramBytes), memory, state })
  say({ ok: true, bytes })
} catch (error) {
  say({ ok: false, message: messageOf(error), code: isHypemanError(error) ? error.code : 'internal' })
  await drain(socket)
}

function say(result: SplitResult): void {
  process.stdout.write(`${JSON.stringify(result)}\n`)
}

/** Iterating over a socket would destroy it when the reader fails. */
async function* piecesOf(socket: Socket): AsyncGenerator<Buffer> {
  const pieces = socket.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>
  yield* pieces
}

async function drain(socket: Socket): Promise<void> {
  socket.resume()
  await finished(socket).catch(() => undefined) // a stream that broke off has ended, too
}
