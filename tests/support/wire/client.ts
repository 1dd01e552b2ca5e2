// The official client's operations, read from the client itself: as types out of its declarations, and as methods and paths out of its sources.

import { readdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import type Client from '@onkernel/hypeman'
import type { APIPromise } from '@onkernel/hypeman'
import type { APIResource } from '@onkernel/hypeman/core/resource'
import { z } from 'zod'

/** Operations of a resource and of the resources in it, as `instances.snapshots.create`. */
type MethodsOf<Resource, Prefix extends string> = {
  [Key in keyof Resource & string]: Resource[Key] extends APIResource
    ? MethodsOf<Resource[Key], `${Prefix}${Key}.`>
    : Resource[Key] extends (...given: never[]) => APIPromise<unknown>
      ? `${Prefix}${Key}`
      : never
}[keyof Resource & string]

/** What the client has beside its resources are its own tools. */
type Resources = { [Key in keyof Client as Client[Key] extends APIResource ? Key : never]: Client[Key] }

/** Every operation of the client, as it is called there. */
export type ClientMethod = MethodsOf<Resources, ''>

type Find<Within, Name extends string> = Name extends `${infer First}.${infer Rest}`
  ? First extends keyof Within
    ? Find<Within[First], Rest>
    : never
  : Name extends keyof Within
    ? Within[Name]
    : never

type Call<Method extends ClientMethod> = Extract<Find<Resources, Method>, (...given: never[]) => APIPromise<unknown>>

/** In the client's declarations an interface and the class that fetches it may share a name: methods are not on the wire. */
type Data<T> = T extends object
  ? T extends readonly unknown[]
    ? T
    : { [Key in keyof T as T[Key] extends Function ? never : Key]: T[Key] }
  : T

/** An event of a stream, which the client reads one by one. */
type EventOf<T> = T extends { readonly controller: AbortController } & AsyncIterable<infer Event> ? Event : Data<T>

type Answer<T> = [T] extends [void] ? null : EventOf<T>

/** What the client expects as the answer; of a stream, each event. */
export type Answered<Method extends ClientMethod> = Answer<Awaited<ReturnType<Call<Method>>>>

/** The last argument of each call is about the call; the one before it, unless it is an id, is what is sent. */
type LastButOne<Given extends readonly unknown[]> = Given extends readonly [...infer Before, unknown]
  ? Before extends readonly [...unknown[], infer Last]
    ? Last
    : undefined
  : undefined
type Fields<T> =
  NonNullable<T> extends string ? Record<never, never> : [NonNullable<T>] extends [never] ? Record<never, never> : NonNullable<T>

/** What the client can send as body or query. */
export type Sent<Method extends ClientMethod> = Fields<LastButOne<Required<Parameters<Call<Method>>>>>

/** An operation as `GET /instances/{}`. */
export function operationName(method: string, target: string): string {
  return `${method.toUpperCase()} ${target.replaceAll(/\$\{\w+\}|\{\w+\}|:\w+/g, '{}')}`
}

const folder = path.resolve(import.meta.dirname, '../../../node_modules/@onkernel/hypeman/src/resources')

/** Reads the operations from the client's sources: `this._client.get(path`/instances/${id}`, …`. */
export async function clientOperations(): Promise<{ method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'; path: string }[]> {
  const files = (await readdir(folder, { recursive: true })).filter((file) => file.endsWith('.ts'))
  const sources = await Promise.all(files.map((file) => readFile(path.join(folder, file), 'utf8')))
  const call = /_client\s*\.(get|post|put|patch|delete)\(\s*(?:path)?['`]([^'`]+)['`]/g
  return sources.flatMap((source) =>
    [...source.matchAll(call)].map(([, method = '', target = '']) => ({
      method: z.enum(['GET', 'POST', 'PUT', 'PATCH', 'DELETE']).parse(method.toUpperCase()),
      path: target.replaceAll(/\$\{(\w+)\}/g, '{$1}'),
    })),
  )
}
