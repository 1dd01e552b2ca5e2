// The start of every connection to a guest agent: a preamble that the agent finds wherever its last connection was cut (guest/protocol.md, section 1).

import { randomBytes } from 'node:crypto'
import type { Duplex } from 'node:stream'
import { HypemanError } from '../api/errors.ts'
import { YamuxSession } from './yamux.ts'

/** First half of the host's preamble. */
export const hostMagic = Buffer.from('9d1e485950454d414e00a7c35be201f6', 'hex')
/** First half of the guest's answer. */
export const guestMagic = Buffer.from('e17a485950454d414e003c99d410018b', 'hex')

/**
 * Sends the preamble, and returns a session that can be used at once: what is sent before the guest has answered goes right behind the preamble. What the guest
 * sent before its answer is discarded.
 */
export function openSession(channel: Duplex): YamuxSession {
  if (channel.destroyed) throw new HypemanError('guest_unreachable', 'the channel to the guest agent is closed')
  const nonce = randomBytes(16)
  const session = new YamuxSession(channel, hostMagic, Buffer.concat([guestMagic, nonce]))
  channel.write(Buffer.concat([hostMagic, nonce]))
  return session
}
