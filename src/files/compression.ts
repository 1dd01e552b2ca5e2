// Compresses files and brings them back, by the programs zstd and lz4, which are proven on files of any size: holes become next to nothing, and are holes again
// afterwards. Whether what comes back is what went in is the caller's to compare (digests.ts).

import path from 'node:path'
import { HypemanError } from '../api/errors.ts'
import { runTool, toolCommand, ToolError } from '../platform/tool.ts'

export const compressionAlgorithms = ['zstd', 'lz4'] as const

export type CompressionAlgorithm = (typeof compressionAlgorithms)[number]

export interface CompressionSetting {
  readonly algorithm: CompressionAlgorithm
  readonly level: number
}

/** What follows the name of a file that was compressed. */
export const compressedSuffix = { zstd: '.zst', lz4: '.lz4' } as const satisfies Record<CompressionAlgorithm, string>

/** lz4(1) knows no level 0; its lowest is the fastest. */
const levelOf = ({ algorithm, level }: CompressionSetting): string => `-${algorithm === 'lz4' ? Math.max(level, 1) : level}`

/** Both programs put a checksum of the contents into what they write, and check it when they read. One thread, at the lowest priority. Whoever keeps the result syncs it. */
export async function compressFile(file: string, target: string, setting: CompressionSetting, signal: AbortSignal): Promise<void> {
  const args = {
    zstd: ['-q', '--check', '-T1', levelOf(setting), '-o', target, '--', file],
    lz4: ['-q', '--content-size', levelOf(setting), '--', file, target],
  }[setting.algorithm]
  await runTool(setting.algorithm, args, { cwd: path.dirname(target), signal, idle: true })
}

/** Makes a sparse file. `corrupt_snapshot` if what is compressed is damaged. Whoever keeps the result syncs it. */
export async function decompressFile(file: string, target: string, algorithm: CompressionAlgorithm, signal: AbortSignal): Promise<void> {
  const args = {
    zstd: ['-d', '-q', '--sparse', '-o', target, '--', file],
    lz4: ['-d', '-q', '--sparse', '--', file, target],
  }[algorithm]
  try {
    await runTool(algorithm, args, { cwd: path.dirname(target), signal })
  } catch (error) {
    if (!(error instanceof ToolError)) throw error
    throw new HypemanError('corrupt_snapshot', `${file} can't be decompressed (${error.message}): it is damaged`, { cause: error })
  }
}

/** A command that writes what a file was before it was compressed to its standard output, and gives way to everything else. */
export function decompressingCommand(file: string, algorithm: CompressionAlgorithm): readonly string[] {
  return [...toolCommand(algorithm, true), '-d', '-q', '-c', '--', file]
}
