// The keys that seal secrets in records (`key-ring.json`): random, and themselves sealed with the server's secrets key. So that key can be replaced without a record being
// written anew: those of snapshots never change.

import { randomBytes } from 'node:crypto'
import type { Logger } from 'pino'
import { z } from 'zod'
import { createSealer, sealedText, type Sealer } from '../platform/sealing.ts'
import { defineRecord, RecordError } from './record-format.ts'
import { writeRecord } from './stage.ts'
import { isMissing } from './tree.ts'

const KEY_BYTES = 32

export const keyRingFormat = defineRecord({
  kind: 'key ring',
  version: 1,
  schema: z
    .object({
      version: z.literal(1),
      /** New secrets are sealed with the first. The others are kept for what they have sealed. */
      keys: z.array(sealedText).min(1).readonly(),
    })
    .readonly(),
})

type KeyRing = z.infer<typeof keyRingFormat.schema>
type Masters = readonly [present: string, ...previous: string[]]

/** What each key is bound to: it is nothing else of this server's. */
const purpose = 'key of secrets'

/**
 * A sealer with all keys that the masters open. Where a previous master opened one, all are sealed with the present one, and new secrets get a new key. Keys that no
 * master opens are left as they are, and the log says that there are some.
 */
export async function openKeyRing(file: string, masters: Masters, log: Logger): Promise<Sealer> {
  const master = createSealer(masters)
  const ring = await readRing(file)
  const keys = (ring?.keys ?? []).map((sealed) => ({ sealed, text: master.open(sealed, purpose) }))
  const closed = keys.filter(({ text }) => text === undefined).length
  const isPresent = keys.length > 0 && keys.every(({ sealed, text }) => text === undefined || master.isCurrent(sealed))
  const opened = keys.flatMap(({ text }) => text ?? [])
  if (closed > 0)
    log.warn(
      { file, closed },
      'no key of this server opens some of the keys of secrets: give the one from before as SECRETS__PREVIOUS_KEY, or instances with those secrets can not be started',
    )
  if (isPresent && keys[0]?.text !== undefined) return createSealer([keys[0].text, ...opened.slice(1)])
  const fresh = randomBytes(KEY_BYTES).toString('hex')
  const renewed: KeyRing = {
    version: 1,
    keys: [master.seal(fresh, purpose), ...keys.map(({ sealed, text }) => (text === undefined ? sealed : master.seal(text, purpose)))],
  }
  await writeRecord(file, renewed, ring ?? null)
  if (opened.length > 0)
    log.info({ file }, 'the keys of secrets are sealed with the present SECRETS__KEY; the one from before is needed no more')
  return createSealer([fresh, ...opened])
}

async function readRing(file: string): Promise<KeyRing | undefined> {
  try {
    return await keyRingFormat.read(file)
  } catch (error) {
    if (error instanceof RecordError && isMissing(error.cause)) return undefined
    throw error
  }
}
