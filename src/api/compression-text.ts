// Compression as people write it, on the command line and in settings.

import type { CompressionBody } from './schemas/compression.ts'

/** `zstd`, `lz4`, `zstd:19`, `none`. Undefined if it is none of these; which levels there are is not judged here. */
export function parseCompression(text: string): CompressionBody | undefined {
  if (text === 'none') return { enabled: false }
  const [, algorithm, level] = /^(zstd|lz4)(?::(\d+))?$/.exec(text) ?? []
  if (algorithm !== 'zstd' && algorithm !== 'lz4') return undefined
  return { enabled: true, algorithm, ...(level === undefined ? {} : { level: Number(level) }) }
}
