// What `hypeman cp` is given: a path here, a path in an instance, or `-` for a tar stream.

import { UsageError } from '../report.ts'

export type Place =
  | { readonly kind: 'local'; readonly path: string }
  | { readonly kind: 'guest'; readonly instance: string; readonly path: string }
  | { readonly kind: 'stream' }

/** `web:/etc` is a path in an instance; a path here with a colon is written `./a:b`. */
export function parsePlace(text: string): Place {
  if (text === '-') return { kind: 'stream' }
  const match = /^([A-Za-z0-9][A-Za-z0-9-]*):(.*)$/s.exec(text)
  if (match === null) {
    if (text === '') throw new UsageError('a path is empty')
    return { kind: 'local', path: text }
  }
  const [, instance = '', path = ''] = match
  if (path === '') throw new UsageError(`'${text}' lacks a path: give ${instance}:/path`)
  return { kind: 'guest', instance, path: path.startsWith('/') ? path : `/${path}` }
}

/** `dir/.` stands for what is in the directory, not for the directory. */
export function contentsOnly(path: string): boolean {
  return /(^|\/)\.$/.test(path)
}

/** Whether the path says by its end that it is a directory. */
export function endsAsDirectory(path: string): boolean {
  return /(^|\/)\.{0,2}\/?$/.test(path)
}
