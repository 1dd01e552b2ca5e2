// QEMU's control connection over an inherited socket: commands, and events as they come.

import type { Duplex } from 'node:stream'
import { createInterface } from 'node:readline'
import { z } from 'zod'

const message = z.union([
  z.object({ return: z.unknown(), id: z.number() }),
  z.object({ error: z.object({ desc: z.string() }), id: z.number() }),
  z.object({ event: z.string(), data: z.record(z.string(), z.unknown()).default({}) }),
  z.object({ QMP: z.unknown() }),
])

export type OnEvent = (event: string, data: Readonly<Record<string, unknown>>) => void

export interface Qmp {
  command(name: string, args?: Readonly<Record<string, unknown>>): Promise<unknown>
}

/** Negotiates, and returns when commands are taken. */
export async function connectQmp(stream: Duplex, onEvent: OnEvent): Promise<Qmp> {
  const pending = new Map<number, PromiseWithResolvers<unknown>>()
  let [nextId, ended] = [1, false]
  const lines = createInterface({ input: stream })
  lines.on('line', (line) => {
    const said = message.parse(JSON.parse(line))
    if ('event' in said) return onEvent(said.event, said.data)
    if (!('id' in said)) return
    const waiting = pending.get(said.id)
    pending.delete(said.id)
    if ('error' in said) waiting?.reject(new Error(said.error.desc))
    else waiting?.resolve(said.return)
  })
  const end = (): void => {
    ended = true
    for (const waiting of pending.values()) waiting.reject(new Error('QEMU has ended'))
    pending.clear()
  }
  lines.on('close', end)
  stream.on('error', end)
  const qmp: Qmp = {
    command(name, args = {}) {
      if (ended) return Promise.reject(new Error('QEMU has ended'))
      const waiting = Promise.withResolvers<unknown>()
      pending.set(nextId, waiting)
      stream.write(`${JSON.stringify({ execute: name, arguments: args, id: nextId++ })}\n`)
      return waiting.promise
    },
  }
  await qmp.command('qmp_capabilities')
  return qmp
}
