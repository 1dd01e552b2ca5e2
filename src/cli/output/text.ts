// Facts as people read them: ages, sizes, durations, short ids. Exact values are in the JSON.

const MINUTE = 60
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR

/** How long ago a time was, in its largest unit: `3 minutes ago`. */
export function ago(time: string | null | undefined, now: number = Date.now()): string {
  if (time === null || time === undefined) return '-'
  const seconds = Math.floor((now - Date.parse(time)) / 1000)
  if (Number.isNaN(seconds)) return time
  if (seconds < 0) return `in ${span(-seconds)}`
  return seconds < 1 ? 'just now' : `${span(seconds)} ago`
}

function span(seconds: number): string {
  if (seconds < 2 * MINUTE) return count(seconds, 'second')
  if (seconds < 2 * HOUR) return count(Math.floor(seconds / MINUTE), 'minute')
  if (seconds < 2 * DAY) return count(Math.floor(seconds / HOUR), 'hour')
  return count(Math.floor(seconds / DAY), 'day')
}

function count(value: number, unit: string): string {
  return `${value} ${unit}${value === 1 ? '' : 's'}`
}

const units = ['B', 'KB', 'MB', 'GB', 'TB', 'PB'] as const

/** Bytes with one decimal, 1024-based as everywhere on the wire: `1.5 GB`. */
export function size(bytes: number | null | undefined): string {
  if (bytes === null || bytes === undefined) return '-'
  const step = bytes < 1024 ? 0 : Math.min(Math.floor(Math.log2(bytes) / 10), units.length - 1)
  return step === 0 ? `${bytes} B` : `${(bytes / 1024 ** step).toFixed(1)} ${units[step]}`
}

/** Milliseconds below ten seconds, seconds above: `412 ms`, `12.3 s`. */
export function milliseconds(ms: number): string {
  if (ms < 10) return `${ms.toFixed(1)} ms`
  return ms < 10_000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`
}

/** The first characters of an id: enough to type, since unique prefixes are accepted everywhere. */
export function shortId(id: string): string {
  return id.slice(0, 12)
}

/** `docker.io/library/` is understood, as people write it. */
export function imageName(name: string): string {
  return name.replace(/^docker\.io\/(?:library\/)?/, '')
}

export function keyValues(pairs: Readonly<Record<string, string>> | undefined): string {
  return Object.entries(pairs ?? {})
    .map(([key, value]) => `${key}=${value}`)
    .join(',')
}
