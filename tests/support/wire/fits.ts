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

/** What stands in the path is no part of body or query. */
type RequestFits<Method extends ClientMethod, R> = R extends { readonly body: infer Schema extends z.ZodType }
  ? [OnWire<Asked<Method>>] extends [z.input<Schema>]
    ? unknown
    : Misfit<'body', z.input<Schema>, OnWire<Asked<Method>>>
  : R extends { readonly query: infer Schema extends z.ZodType }
    ? [AsQuery<OnWire<Asked<Method>>>] extends [OnWire<z.input<Schema>>]
      ? unknown
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
