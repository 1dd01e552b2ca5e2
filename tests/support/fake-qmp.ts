// A QMP server on a unix socket that says what a test tells it to.

import { once } from 'node:events'
import { rm } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { z } from 'zod'

const greeting = { QMP: { version: { qemu: { major: 7, minor: 2, micro: 22 }, package: 'Debian' }, capabilities: ['oob'] } }

const request = z.object({ execute: z.string(), id: z.number(), arguments: z.record(z.string(), z.unknown()).optional() })
export type QmpRequest = z.infer<typeof request>

export interface FakeQmp extends AsyncDisposable {
  readonly file: string
  /** Names of the commands that came, in order. */
  readonly commands: readonly string[]
  readonly connections: number
}

export interface FakeQmpOptions {
  /** By default the greeting; an empty text says nothing. */
  readonly first?: string
  /** Answers every command but `qmp_capabilities`. */
  readonly answer: (request: QmpRequest, socket: Socket) => void
}

export async function fakeQmp(file: string, options: FakeQmpOptions): Promise<FakeQmp> {
  const commands: string[] = []
  const sockets = new Set<Socket>()
  let connections = 0
  const server = createServer((socket) => {
    connections += 1
    sockets.add(socket)
    socket.on('error', () => sockets.delete(socket))
    socket.write(options.first ?? `${JSON.stringify(greeting)}\r\n`)
    createInterface({ input: socket }).on('line', (line) => {
      const asked = request.parse(JSON.parse(line))
      commands.push(asked.execute)
      if (asked.execute === 'qmp_capabilities') say(socket, { return: {}, id: asked.id })
      else options.answer(asked, socket)
    })
  })
  server.listen(file)
  await once(server, 'listening')
  return {
    file,
    commands,
    get connections() {
      return connections
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
      await rm(file, { force: true })
    },
  }
}

export function say(socket: Socket, message: unknown): void {
  socket.write(`${JSON.stringify(message)}\r\n`)
}
