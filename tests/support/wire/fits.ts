// When a row of the table of operations fits the official client, as types. What does not fit is an error of the type check in its row, which says what is ours and what is theirs.

import type { z } from 'zod'
import type { Answered, ClientMethod, Sent } from './client.ts'

export interface Row {
  /** Method and path of our route. */
  readonly at: string
  /** Schema of the answer; of a stream, of each event. `only errors`: the server refuses each request, and does not describe the operation. */
  readonly answer: z.ZodType | 'only errors'
  readonly body?: z.ZodType
  readonly query?: z.ZodType
}

/** Requests of the client that are refused on purpose, without the part that is. */
interface Exceptions {
  /** Nobody can wait for a state that is not known. */
  'instances.wait': Omit<Sent<'instances.wait'>, 'state'> & { state: Exclude<Sent<'instances.wait'>['state'], 'Unknown'> }
}

type Asked<Method extends ClientMethod> = Method extends keyof Exceptions ? Exceptions[Method] : Sent<Method>

/** JSON has no undefined: a field that may be undefined in memory is absent on the wire. */
type OnWire<T> = T extends readonly (infer Item)[]
  ? OnWire<Item>[]
  : T extends object
    ? { [Key in keyof T]: OnWire<Exclude<T[Key], undefined>> }
    : T

/** In a query numbers and flags are text. */
type AsQuery<T> = { [Key in keyof T]: AsText<T[Key]> }
type AsText<T> = T extends string | undefined ? T : T extends number ? T | `${T}` : T extends boolean ? `${T}` : T extends object ? T : T

interface Misfit<Part extends string, Ours, Theirs> {
  readonly doesNotFit: Part
  readonly ours: Ours
  readonly theirs: Theirs
}

type AnswerFits<Method extends ClientMethod, Schema> = Schema extends z.ZodType
  ? [OnWire<z.output<Schema>>] extends [OnWire<Answered<Method>>]
    ? unknown
    : Misfit<'answer', OnWire<z.output<Schema>>, OnWire<Answered<Method>>>
  : unknown

/** Fields of the client's that ours has not, at whatever depth, as `network.egress` or `volumes[].name`. To the compiler a value with more fields than asked for fits; the server would drop them. */
type Dropped<Theirs, Ours, Before extends string = ''> = unknown extends Ours
  ? never
  : Theirs extends readonly (infer Item)[]
    ? Dropped<Item, Ours extends readonly (infer Own)[] ? Own : never, `${Before}[]`>
    : Theirs extends object
      ? {
          [Key in keyof Theirs & string]-?: Key extends KeyOf<Ours>
            ? Dropped<Exclude<Theirs[Key], undefined>, At<Ours, Key>, `${Before}.${Key}`>
            : `${Before}.${Key}`
        }[keyof Theirs & string]
      : never

/** Of any of several forms. */
type KeyOf<T> = T extends object ? keyof T : never
type At<T, Key extends PropertyKey> = T extends object ? (Key extends keyof T ? Exclude<T[Key], undefined> : never) : never

/** The client has an id that stands in the path among the fields, if another one stands there after it. */
type InPath<R> = R extends { readonly at: `${string}/:id/${string}` } ? '.id' : never

type Takes<R, Theirs, Ours> = [Exclude<Dropped<Theirs, Ours>, InPath<R>>] extends [never]
  ? unknown
  : Misfit<'dropped', Ours, Exclude<Dropped<Theirs, Ours>, InPath<R>>>

/** What stands in the path is no part of body or query. */
type RequestFits<Method extends ClientMethod, R> = R extends { readonly body: infer Schema extends z.ZodType }
  ? [OnWire<Asked<Method>>] extends [z.input<Schema>]
    ? Takes<R, OnWire<Asked<Method>>, z.input<Schema>>
    : Misfit<'body', z.input<Schema>, OnWire<Asked<Method>>>
  : R extends { readonly query: infer Schema extends z.ZodType }
    ? [AsQuery<OnWire<Asked<Method>>>] extends [OnWire<z.input<Schema>>]
      ? Takes<R, AsQuery<OnWire<Asked<Method>>>, OnWire<z.input<Schema>>>
      : Misfit<'query', OnWire<z.input<Schema>>, AsQuery<OnWire<Asked<Method>>>>
    : R extends { readonly answer: 'only errors' }
      ? unknown
      : [keyof Asked<Method>] extends ['id']
        ? unknown
        : Misfit<'request', 'takes nothing', Asked<Method>>

/** `unknown` if the row fits the operation, and otherwise what does not. */
export type Fits<Method, R> = Method extends ClientMethod
  ? R extends Row
    ? AnswerFits<Method, R['answer']> & RequestFits<Method, R>
    : never
  : Misfit<'name', Method, 'the client has no such operation'>
