// The text of a JSON record on disk: the value with a checksum as its last property, so that a record whose bits have flipped is never taken for another one.
// Writing it durably is stage.ts's, what the values are the owners'.

import { hash } from 'node:crypto'

export function recordText(value: object): string {
  return `${JSON.stringify({ ...value, checksum: checksumOf(value) }, null, 2)}\n`
}

/** The value of a record's text, checked but not yet parsed by its schema. A text without a checksum is taken as it is, unless `sealed`. */
export function parseRecordText(text: string, sealed = false): unknown {
  const value: unknown = JSON.parse(text)
  if (!isObject(value)) throw new Error('the record is no object')
  const { checksum, ...rest } = value
  if (checksum === undefined && !sealed) return rest
  if (checksum !== checksumOf(rest)) throw new Error('the record is damaged: its checksum is that of other contents')
  return rest
}

/** Of the JSON without white space: the order of the properties counts, and survives parsing. */
function checksumOf(value: object): string {
  return `sha256:${hash('sha256', JSON.stringify(value))}`
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
