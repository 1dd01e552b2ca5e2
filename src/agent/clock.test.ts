// A guest that is slow to take its identity gets the time again. The guest is an HTTP server behind a session of the test.

import assert from 'node:assert/strict'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { duplexPair, Duplex } from 'node:stream'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { guestMagic } from './channel.ts'
import { connectAgent } from './client.ts'
import { frameFlags, frameTypes, HEADER_BYTES, headerOf } from './yamux-frames.ts'

const identity = { instanceId: 'i', hostname: 'h', machineId: '0'.repeat(32), network: null }

/** The guest's side of the multiplexing, for small requests. */
function serve(channel: Duplex, handle: (request: IncomingMessage, response: ServerResponse) => void): void {
  const server = createServer(handle)
  const streams = new Map<number, Duplex>()
  let seen: Buffer = Buffer.alloc(0)
  let begun = false
  channel.on('data', (chunk: Buffer) => {
    seen = Buffer.concat([seen, chunk])
    if (!begun && seen.length >= 32) {
      begun = true
      channel.write(Buffer.concat([guestMagic, seen.subarray(16, 32)]))
      seen = seen.subarray(32)
    }
    while (begun && seen.length >= HEADER_BYTES) {
      const [type, flags, id, length] = [seen.readUInt8(1), seen.readUInt16BE(2), seen.readUInt32BE(4), seen.readUInt32BE(8)]
      const body = type === frameTypes.data ? length : 0
      if (seen.length < HEADER_BYTES + body) return
      if ((flags & frameFlags.syn) !== 0) {
        const stream = new Duplex({
          read: () => undefined,
          write(data: Buffer, _encoding, done) {
            channel.write(Buffer.concat([headerOf(frameTypes.data, 0, id, data.length), data]), done)
          },
        })
        streams.set(id, stream)
        server.emit('connection', stream)
      }
      if (body > 0) streams.get(id)?.push(seen.subarray(HEADER_BYTES, HEADER_BYTES + body))
      seen = seen.subarray(HEADER_BYTES + body)
    }
  })
}

async function stepsAgainst(slowRequests: number): Promise<string[]> {
  const [host, guest] = duplexPair()
  const asked: string[] = []
  serve(guest, (request, response) => {
    void (async () => {
      const body = JSON.parse(await text(request)) as { time_unix_ns: string }
      asked.push(request.url ?? '')
      assert.ok(Math.abs(Number(BigInt(body.time_unix_ns) / 1_000_000n) - Date.now()) < 1_000)
      if (asked.length <= slowRequests) await delay(250)
      response.end(request.url === '/v1/identity' ? '{"steps":[{"name":"clock","ms":1,"ok":true}]}' : '{}')
    })()
  })
  const agent = await connectAgent(host, AbortSignal.timeout(5_000))
  assert.equal((await agent.identity('fork', identity, 1)).length, 1)
  agent.close()
  guest.destroy()
  return asked
}

test('a quick guest is told the time once', async () => {
  assert.deepEqual(await stepsAgainst(0), ['/v1/identity'])
})

test('a slow guest is told the time until it comes in time', async () => {
  assert.deepEqual(await stepsAgainst(2), ['/v1/identity', '/v1/clock', '/v1/clock'])
})

test('a guest that stays slow is not told without end', async () => {
  assert.equal((await stepsAgainst(100)).length, 6)
})
