// Text that only this server can read, for records on disk: AES-256-GCM under keys derived from the server's secrets key (HKDF, RFC 5869).
// Each text is bound to what it belongs to, so that it can't be moved to something else. Where the keys come from: secret.ts.

import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto'
import { z } from 'zod'

export const sealedText = z
  .object({
    /** Which key it was sealed with, in hexadecimal digits; says nothing about the key itself. */
    keyId: z.string(),
    /** Base64. Random, 96 bits: good for far more texts under one key than a server ever writes. */
    nonce: z.string(),
    /** Base64: the encrypted text, then the tag. */
    data: z.string(),
  })
  .readonly()

export type SealedText = z.infer<typeof sealedText>

export interface Sealer {
  /** `about`: what the text belongs to; opening takes the very same. */
  seal(text: string, about: string): SealedText
  /** Undefined if no key of this server opens it, or it was changed, or it belongs to something else. */
  open(sealed: SealedText, about: string): string | undefined
  /** Sealed with the key that new texts are sealed with. */
  isCurrent(sealed: SealedText): boolean
}

interface Key {
  readonly id: string
  readonly bytes: Uint8Array
}

const cipher = 'aes-256-gcm'
const KEY_BYTES = 32
const NONCE_BYTES = 12
const TAG_BYTES = 16

/** Seals with the first secret, and opens what was sealed with any of them. */
export function createSealer(secrets: readonly [string, ...string[]]): Sealer {
  const [current, ...previous] = [keyOf(secrets[0]), ...secrets.slice(1).map(keyOf)]
  const keys = new Map([current, ...previous].map((key) => [key.id, key]))
  return {
    seal(text, about) {
      const nonce = randomBytes(NONCE_BYTES)
      const encrypt = createCipheriv(cipher, current.bytes, nonce, { authTagLength: TAG_BYTES }).setAAD(Buffer.from(about))
      const data = Buffer.concat([encrypt.update(text, 'utf8'), encrypt.final(), encrypt.getAuthTag()])
      return { keyId: current.id, nonce: nonce.toString('base64'), data: data.toString('base64') }
    },
    open(sealed, about) {
      const key = keys.get(sealed.keyId)
      return key === undefined ? undefined : decrypt(key, sealed, about)
    },
    isCurrent: ({ keyId }) => keyId === current.id,
  }
}

function decrypt(key: Key, { nonce, data }: SealedText, about: string): string | undefined {
  const bytes = Buffer.from(data, 'base64')
  const iv = Buffer.from(nonce, 'base64')
  if (bytes.length < TAG_BYTES || iv.length !== NONCE_BYTES) return undefined
  const opened = createDecipheriv(cipher, key.bytes, iv, { authTagLength: TAG_BYTES })
    .setAAD(Buffer.from(about))
    .setAuthTag(bytes.subarray(-TAG_BYTES))
  const text = opened.update(bytes.subarray(0, -TAG_BYTES))
  try {
    return Buffer.concat([text, opened.final()]).toString('utf8')
  } catch {
    return undefined // the tag does not fit: it is not what this key has sealed for that
  }
}

function keyOf(secret: string): Key {
  const derive = (purpose: string, length: number): Buffer =>
    Buffer.from(hkdfSync('sha256', secret, '', `hypeman secrets, ${purpose}`, length))
  return { id: derive('name of the key', 8).toString('hex'), bytes: derive('key', KEY_BYTES) }
}
