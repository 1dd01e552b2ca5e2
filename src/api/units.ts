// Sizes, durations and rates as the wire writes them, and the numbers behind them. Pure.
// Sizes are 1024-based; durations are those of Go's time package; bandwidths in bits are 1000-based.

const sizeFactors = { '': 1, B: 1, K: 1024, M: 1024 ** 2, G: 1024 ** 3, T: 1024 ** 4, P: 1024 ** 5 } as const
type SizeUnit = keyof typeof sizeFactors

const sizePattern = /^(\d+(?:\.\d+)?)\s*(?:([KMGTP])(?:I?B)?|(B))?$/i

/** Bytes of a size such as `2GB`, `512 mb` or `1.5G`; undefined if it is none, or more than a number holds exactly. */
export function parseSize(text: string): number | undefined {
  const match = sizePattern.exec(text.trim())
  if (match === null) return undefined
  const [, digits = '', letter = ''] = match
  const bytes = Math.round(Number(digits) * sizeFactors[letter.toUpperCase() as SizeUnit])
  return Number.isSafeInteger(bytes) ? bytes : undefined
}

const printedUnits = ['P', 'T', 'G', 'M', 'K'] as const

/** A size for people, `2.0 GB`; below 1024 bytes the exact number, `0 B`. */
export function formatSize(bytes: number): string {
  // What one decimal would round up to 1024.0 of a unit is 1.0 of the next.
  const unit = printedUnits.find((letter) => (bytes / sizeFactors[letter]) * 1024 >= 1023.95)
  return unit === undefined ? `${bytes} B` : `${(bytes / sizeFactors[unit]).toFixed(1)} ${unit}B`
}

const durationUnitsMs: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  μs: 1e-3,
  ms: 1,
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
}
const durationPattern = /^[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+$/
/** Go's durations are 64-bit nanoseconds. */
const LONGEST_DURATION_MS = 2 ** 63 / 1e6

/** Milliseconds of a duration such as `1h30m` or `300ms`; undefined if it is none. Negative durations are parsed as such. */
export function parseDuration(text: string): number | undefined {
  if (/^[+-]?0$/.test(text)) return 0
  if (!durationPattern.test(text)) return undefined
  const parts = text.matchAll(/([\d.]+)([a-zµμ]+)/g)
  const ms = [...parts].reduce((sum, [, number = '', unit = '']) => sum + Number(number) * (durationUnitsMs[unit] ?? Number.NaN), 0)
  if (!(ms < LONGEST_DURATION_MS)) return undefined
  return text.startsWith('-') && ms !== 0 ? -ms : ms
}

/** A duration in Go's normal form: `24h0m0s`, `1m30s`, `300ms`, `0s`. */
export function formatDuration(ms: number): string {
  if (ms < 0) return `-${formatDuration(-ms)}`
  if (ms === 0) return '0s'
  if (ms < 1e-3) return `${Math.round(ms * 1e6)}ns`
  if (ms < 1) return `${decimals(ms * 1e3, 3)}µs`
  if (ms < 1_000) return `${decimals(ms, 6)}ms`
  const minutes = Math.floor(ms / 60_000)
  const seconds = `${decimals((ms - minutes * 60_000) / 1_000, 9)}s`
  if (minutes === 0) return seconds
  return minutes < 60 ? `${minutes}m${seconds}` : `${Math.floor(minutes / 60)}h${minutes % 60}m${seconds}`
}

function decimals(value: number, digits: number): string {
  return value.toFixed(digits).replace(/\.?0+$/, '')
}

/** Bytes per second of a disk rate such as `100MB/s`, `100MBps` or `100MB`; undefined if it is none. */
export function parseRate(text: string): number | undefined {
  return parseSize(text.trim().replace(/\/s$|ps$/i, ''))
}

/** A rate for people, which `parseRate` takes: `100.0 MB/s`. */
export function formatRate(bytesPerSecond: number): string {
  return `${formatSize(bytesPerSecond)}/s`
}

/** A bandwidth for people, which `parseBandwidth` takes: `1Gbps`, `16Mbps`, `12.5kbps`; exact. */
export function formatBandwidth(bytesPerSecond: number): string {
  const bits = bytesPerSecond * 8
  for (const [unit, factor] of [
    ['Gbps', 1e9],
    ['Mbps', 1e6],
    ['kbps', 1e3],
  ] as const)
    if (bits >= factor && Number.isInteger((bits / factor) * 1e3)) return `${bits / factor}${unit}`
  return `${bits}bps`
}

const bitPattern = /^(\d+(?:\.\d+)?)\s*([kmgt])?(?:bps|bit\/s|bits\/s)$/i
const bitFactors: Readonly<Record<string, number>> = { '': 1, k: 1e3, m: 1e6, g: 1e9, t: 1e12 }

/** Bytes per second of a bandwidth in bits (`1Gbps`) or bytes (`125MB/s`); undefined if it is none. A capital B counts as bytes: `100MBps`. */
export function parseBandwidth(text: string): number | undefined {
  const match = bitPattern.exec(text.trim())
  if (match === null || text.trim().endsWith('Bps')) return parseRate(text)
  const [, digits = '', letter = ''] = match
  const bits = Number(digits) * (bitFactors[letter.toLowerCase()] ?? Number.NaN)
  // The product of 269858.351 and 1e6 is off in its last digit, which is no part of a bit to round up.
  const bytes = Math.ceil((Number.isInteger(bits) ? bits : Number(bits.toPrecision(15))) / 8)
  return Number.isSafeInteger(bytes) ? bytes : undefined
}
