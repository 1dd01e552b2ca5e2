// Secret files that the command line names: each is a file here, or standard input, and its content never a word of the command.

import { createReadStream } from 'node:fs'
import path from 'node:path'
import { LONGEST_SECRET_FILE, secretFileName } from '../api/secret-files.ts'
import { UsageError } from './report.ts'
import type { Terminal } from './terminal.ts'

/** What stands for standard input. */
const INPUT = '-'

interface Named {
  readonly name: string
  readonly from: string
}

/** Whether one of them is standard input, which nothing else can be then. */
export function readsInput(words: readonly string[] = []): boolean {
  return words.some((word) => sourceOf(word).from === INPUT)
}

/** Contents by name; what is named later counts. */
export async function secretFilesOf(words: readonly string[] = [], stdin: Terminal['stdin']): Promise<Record<string, string>> {
  const named = words.map(sourceOf)
  if (named.filter(({ from }) => from === INPUT).length > 1)
    throw new UsageError('--secret-file: standard input can be one file only; give the others by their paths')
  const files: Record<string, string> = {}
  for (const { name, from } of named)
    files[name] = textOf(from === INPUT ? `${name}=-` : from, await read(from === INPUT ? stdin : createReadStream(from)))
  return files
}

/** `NAME=PATH`, or a path whose last part is the name. What is no name before a `=` is part of a path. */
function sourceOf(word: string): Named {
  const at = word.indexOf('=')
  const before = at === -1 ? '' : word.slice(0, at)
  if (at !== -1 && secretFileName.test(before)) return { name: before, from: word.slice(at + 1) }
  if (word === INPUT) throw new UsageError('--secret-file -: say what it is called in the guest: --secret-file NAME=-')
  const name = path.basename(word)
  if (secretFileName.test(name)) return { name, from: word }
  throw new UsageError(
    `--secret-file ${word}: give it a name of 1 to 64 letters, digits and ._- that does not begin with a dot: --secret-file NAME=PATH`,
  )
}

/** At most one byte more than fits. */
async function read(stream: AsyncIterable<unknown>): Promise<Buffer> {
  const chunks: Uint8Array[] = []
  let bytes = 0
  for await (const chunk of stream as AsyncIterable<Uint8Array>) {
    chunks.push(chunk)
    bytes += chunk.length
    if (bytes > LONGEST_SECRET_FILE) break
  }
  return Buffer.concat(chunks)
}

function textOf(what: string, bytes: Buffer): string {
  if (bytes.length > LONGEST_SECRET_FILE)
    throw new UsageError(`--secret-file ${what}: it is longer than ${LONGEST_SECRET_FILE} bytes; put it on a volume instead`)
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw new UsageError(
      `--secret-file ${what}: it is not UTF-8 text; encode it, for example with base64, and have the program in the guest decode it`,
    )
  }
}
