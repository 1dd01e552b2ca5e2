// Values out of JSON Schema: some that fit, some at the edge, some of the wrong type, some with fields that nobody knows.

import fc from 'fast-check'
import { z } from 'zod'

const jsonSchema = z.looseObject({
  type: z.union([z.string(), z.array(z.string())]).optional(),
  enum: z.array(z.unknown()).optional(),
  const: z.unknown().optional(),
  format: z.string().optional(),
  minimum: z.number().optional(),
  maximum: z.number().optional(),
  items: z.unknown().optional(),
  properties: z.record(z.string(), z.unknown()).optional(),
  required: z.array(z.string()).optional(),
  additionalProperties: z.unknown().optional(),
  anyOf: z.array(z.unknown()).optional(),
  oneOf: z.array(z.unknown()).optional(),
})

/** How values are made. */
export interface Manner {
  /** Whether values that do not fit are among them, and fields that nobody knows. */
  readonly isWild: boolean
  /** Values for fields of a name, where any value of the type would be refused, or would cost the host too much. */
  readonly hints: Readonly<Record<string, fc.Arbitrary<unknown>>>
  /** Fields that have the values of their hints and no others: what else is a name would have a registry of the world asked for it. */
  readonly hintedAlone?: ReadonlySet<string>
}

/** Text that has broken programs before. */
export const oddText: fc.Arbitrary<string> = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 12 }),
  fc.constantFrom(
    '',
    ' ',
    '\0',
    '..',
    '../..',
    '/',
    '%',
    '%00',
    '%2e%2e%2f',
    '\r\nx: y',
    '\u{1f600}',
    '\u202e',
    'null',
    'NaN',
    '-0',
    '1e309',
    '__proto__',
  ),
  fc.constantFrom('constructor', 'toString', '$ref', '{}', '[]', "'; --", '${x}', 'a'.repeat(64), 'a'.repeat(1025), 'é'.repeat(5000)),
)

const oddNumber = fc.constantFrom(-1, 0, 0.5, 1, 2 ** 31, 2 ** 32, 2 ** 53, -(2 ** 53), 1e21, 1e308, Number.MIN_VALUE, 65_536, 1e9)

/** What fits no schema in particular. */
export const oddValue: fc.Arbitrary<unknown> = fc.oneof(
  oddText,
  oddNumber,
  fc.constantFrom(null, true, false, [], {}, [[]], [null]),
  fc.jsonValue({ maxDepth: 3 }),
  fc.integer({ min: 1, max: 500 }).map((depth) => JSON.parse('['.repeat(depth) + ']'.repeat(depth)) as unknown),
  fc.constantFrom('{"__proto__":{"a":1}}', '{"constructor":{"prototype":1}}', '{"toString":1}').map((text) => JSON.parse(text) as unknown),
)

/** Mostly what the schema says. */
export function valueOf(node: unknown, manner: Manner, name = ''): fc.Arbitrary<unknown> {
  const fitting = manner.hints[name] ?? fittingValue(jsonSchema.parse(node ?? {}), manner)
  return manner.isWild && manner.hintedAlone?.has(name) !== true
    ? fc.oneof({ weight: 12, arbitrary: fitting }, { weight: 1, arbitrary: oddValue })
    : fitting
}

function fittingValue(schema: z.infer<typeof jsonSchema>, manner: Manner): fc.Arbitrary<unknown> {
  if (schema.const !== undefined) return fc.constant(schema.const)
  if (schema.enum !== undefined) return fc.constantFrom(...schema.enum)
  const alternatives = schema.anyOf ?? schema.oneOf
  if (alternatives !== undefined) return fc.oneof(...alternatives.map((one) => valueOf(one, manner)))
  const [type, ...others] = [schema.type ?? []].flat()
  if (others.length > 0) return fc.oneof(...[type, ...others].map((one) => fittingValue({ ...schema, type: one }, manner)))
  switch (type) {
    case 'string':
      return schema.format === 'date-time'
        ? fc.date({ noInvalidDate: true }).map((date) => date.toISOString())
        : manner.isWild
          ? fc.oneof(word, oddText)
          : word
    case 'integer':
    case 'number':
      return manner.isWild
        ? fc.oneof(edges(schema.minimum ?? 0, schema.maximum ?? 100), small)
        : small.map((n) => Math.max(n, schema.minimum ?? n))
    case 'boolean':
      return fc.boolean()
    case 'null':
      return fc.constant(null)
    case 'array':
      return fc.array(valueOf(schema.items, manner), { maxLength: 3 })
    case 'object':
      return objectOf(schema, manner)
    default:
      return oddValue
  }
}

const small = fc.integer({ min: 0, max: 100 })
const word = fc.stringMatching(/^[a-z0-9][a-z0-9-]{0,8}$/)

function edges(low: number, high: number): fc.Arbitrary<number> {
  return fc.constantFrom(low, high, low - 1, high + 1)
}

function objectOf(
  { properties = {}, required = [], additionalProperties }: z.infer<typeof jsonSchema>,
  manner: Manner,
): fc.Arbitrary<object> {
  const { isWild } = manner
  const given = Object.entries(properties).map(([name, schema]) => {
    const value = valueOf(schema, manner, name).map((one) => [[name, one]] as const)
    const [present, absent] = required.includes(name) ? [30, isWild ? 1 : 0] : [1, 3]
    return fc.oneof({ weight: present, arbitrary: value }, { weight: absent, arbitrary: fc.constant([]) })
  })
  const isMap = typeof additionalProperties === 'object' && additionalProperties !== null
  const unknownFields = fc.array(fc.tuple(oddText, oddValue), { maxLength: 2 })
  const more = isMap
    ? fc.array(fc.tuple(isWild ? fc.oneof(word, oddText) : word, valueOf(additionalProperties, manner)), { maxLength: 4 })
    : fc.oneof({ weight: 6, arbitrary: fc.constant([]) }, { weight: isWild ? 1 : 0, arbitrary: unknownFields })
  return fc.tuple(fc.tuple(...given), more).map(([known, unknown]) => Object.fromEntries([...known.flat(), ...unknown]))
}
