// Identifiers that the product makes: ids, machine ids, MAC addresses. Not the validation of those that come in (api/schemas).

import { randomBytes } from 'node:crypto'
import { createId } from '@paralleldrive/cuid2'

/** A cuid2: 24 characters `[a-z0-9]`, first a letter, never reused. */
export function newId(): string {
  return createId()
}

/** 32 hexadecimal digits with the version and variant of a random UUID (machine-id(5)). */
export function newMachineId(): string {
  const bytes = randomBytes(16)
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x40
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80
  return bytes.toString('hex')
}

/** A locally administered unicast address, `02:…`, of 40 random bits. */
export function newMac(): string {
  return ['02', ...(randomBytes(5).toString('hex').match(/../g) ?? [])].join(':')
}
