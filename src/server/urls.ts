// Request targets as the router needs them: image references of any encoding as one path segment, queries with deep objects.

/** Paths below /images that are no image names, by method. */
const otherImagePaths: Readonly<Record<string, string>> = { GET: 'events', POST: 'import' }

/**
 * Puts an image's reference into one path segment. Clients send `/images/docker.io%2Fa%2Fb`, the same encoded twice, or bare slashes; a reference has no
 * percent sign of its own, so decoding until there is none left tells what was meant. Other targets are returned as they are.
 */
export function canonicalTarget(method: string, target: string): string {
  const [path, query] = splitOnce(target, '?')
  if (!path.startsWith('/images/')) return target
  const rest = path.slice('/images/'.length)
  if (rest === '' || rest === otherImagePaths[method]) return target
  const tagged = method === 'POST' && rest.endsWith('/tag')
  const name = decodeFully(tagged ? rest.slice(0, -'/tag'.length) : rest)
  if (name === undefined || name === '') return target
  return `/images/${encodeURIComponent(name)}${tagged ? '/tag' : ''}${query === undefined ? '' : `?${query}`}`
}

function splitOnce(text: string, separator: string): [string, string | undefined] {
  const at = text.indexOf(separator)
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)]
}

/** Encoded three times is no accident of any client. */
const MOST_ENCODINGS = 2

function decodeFully(text: string): string | undefined {
  let decoded = text
  try {
    for (let times = 0; times < MOST_ENCODINGS && decoded.includes('%'); times += 1) decoded = decodeURIComponent(decoded)
    return decoded
  } catch {
    return undefined // the router says what is wrong with it
  }
}

export type ParsedQuery = Record<string, string | Record<string, string>>

/** `a=1&tags[team]=backend` → `{ a: '1', tags: { team: 'backend' } }`. Of a repeated parameter the first counts. */
export function parseQuery(text: string): ParsedQuery {
  const query: ParsedQuery = emptyObject()
  for (const [name, value] of new URLSearchParams(text)) {
    const [, outer, inner] = /^([^[\]]+)\[(.*)\]$/s.exec(name) ?? []
    if (outer === undefined || inner === undefined) {
      query[name] ??= value
      continue
    }
    const group = (query[outer] ??= emptyObject())
    if (typeof group === 'object') group[inner] ??= value
  }
  return query
}

/** Without a prototype: names come from outside. */
function emptyObject<T>(): Record<string, T> {
  return Object.create(null) as Record<string, T>
}
