// A guest of a few lines behind a session of its own: what it answers to renewals is the test's to say.

import assert from 'node:assert/strict'
import { duplexPair } from 'node:stream'
import { guestMagic } from '../../src/agent/channel.ts'
import { connectAgent } from '../../src/agent/client.ts'
import type { AgentClient } from '../../src/agent/contract.ts'
import { frameTypes, HEADER_BYTES, headerOf } from '../../src/agent/yamux-frames.ts'

export const identity = {
  instanceId: 'i1',
  hostname: 'web\n1',
  machineId: '0'.repeat(32),
  network: { mac: '02:00:00:00:00:01', address: '10.0.2.15/24', gateway: '10.0.2.2', dns: ['10.0.2.3', '10.0.2.4'], mtu: 1500 },
}

interface ToldGuest extends AsyncDisposable {
  readonly agent: AgentClient
  /** The messages that came, each as its lines. */
  readonly heard: string[][]
}

/** A guest that gives `answer` to each renewal; undefined: none. */
export async function connectGuest(answer: (message: string, count: number) => string | undefined): Promise<ToldGuest> {
  const [host, guest] = duplexPair()
  const heard: string[][] = []
  let seen: Buffer = Buffer.alloc(0)
  let begun = false
  guest.on('data', (chunk: Buffer) => {
    seen = Buffer.concat([seen, chunk])
    if (!begun && seen.length >= 32) {
      begun = true
      guest.write(Buffer.concat([guestMagic, seen.subarray(16, 32)]))
      seen = seen.subarray(32)
    }
    while (begun && seen.length >= HEADER_BYTES && seen.length >= HEADER_BYTES + seen.readUInt32BE(8)) {
      assert.equal(seen.readUInt8(1), frameTypes.renewal)
      const end = HEADER_BYTES + seen.readUInt32BE(8)
      const message = seen.toString('utf8', HEADER_BYTES, end)
      seen = seen.subarray(end)
      heard.push(message.trimEnd().split('\n'))
      const text = answer(message, heard.length)
      if (text === undefined) continue
      const frame = Buffer.concat([headerOf(frameTypes.renewal, 0, 0, Buffer.byteLength(text)), Buffer.from(text)])
      for (const byte of frame) guest.write(Buffer.of(byte))
    }
  })
  const agent = await connectAgent(host, AbortSignal.timeout(5_000))
  return {
    agent,
    heard,
    async [Symbol.asyncDispose]() {
      agent.close()
      await agent.closed
      guest.destroy()
    },
  }
}

export function timeIn(message: string): bigint {
  return BigInt(/^time (\d+)$/m.exec(message)?.[1] ?? '0')
}
