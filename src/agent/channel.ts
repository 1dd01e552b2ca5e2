// The start of every connection to a guest agent: a preamble that the agent finds wherever its last connection was cut (guest/protocol.md, section 1).

import { randomBytes } from 'node:crypto'
import type { Duplex } from 'node:stream'
import { HypemanError } from '../api/errors.ts'
import { YamuxSession } from './yamux.ts'

/** First half of the host's preamble. */
export const hostMagic = Buffer.from('9d1e485950454d414e00a7c35be201f6', 'hex')
/** First half of the guest's answer. */
export const guestMagic = Buffer.from('e17a485950454d414e003c99d410018b', 'hex')

/** Sends the preamble and resolves with a fresh session once the guest has answered it; what came before is discarded. */
export async function openSession(channel: Duplex, signal: AbortSignal): Promise<YamuxSession> {
  signal.throwIfAborted()
  if (channel.destroyed) throw new HypemanError('guest_unreachable', 'the channel to the guest agent is closed')
  const nonce = randomBytes(16)
  const answer = Buffer.concat([guestMagic, nonce])
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>()
  let seen: Buffer = Buffer.alloc(0)
  const onData = (chunk: Buffer): void => {
    seen = Buffer.concat([seen, chunk])
    const at = seen.indexOf(answer)
    if (at >= 0) resolve(seen.subarray(at + answer.length))
    else seen = seen.subarray(Math.max(0, seen.length - answer.length + 1))
  }
  const onError = (cause: Error): void => reject(new HypemanError('guest_unreachable', 'the channel to the guest agent failed', { cause }))
  const onClose = (): void => reject(new HypemanError('guest_unreachable', 'the channel to the guest agent was closed before it answered'))
  const onAbort = (): void => reject(signal.reason as Error)
  channel.on('data', onData).once('error', onError).once('close', onClose)
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    channel.write(Buffer.concat([hostMagic, nonce]))
    const rest = await promise
    channel.off('data', onData)
    const session = new YamuxSession(channel, hostMagic)
    session.receive(rest)
    return session
  } finally {
    channel.off('data', onData).off('error', onError).off('close', onClose)
    signal.removeEventListener('abort', onAbort)
  }
}
