// Takes one program out of a .tar.gz. Whatever else is in there is passed over: no name in the archive becomes a path.

import { createReadStream } from 'node:fs'
import { open } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { createTarDecoder } from 'modern-tar'
import { messageOf } from '../platform/flow.ts'

/** Writes the member of that path to a new file, and returns false if there is none. It must be a plain file. */
export async function unpackMember(archive: string, member: string, file: string, signal: AbortSignal): Promise<boolean> {
  const packed = Readable.toWeb(createReadStream(archive, { signal })) as ReadableStream<Uint8Array<ArrayBuffer>>
  try {
    for await (const { header, body } of packed
      .pipeThrough(new DecompressionStream('gzip'))
      .pipeThrough(createTarDecoder({ strict: true }))) {
      if (header.name.replace(/^\.\//, '') !== member) {
        await body.cancel()
        continue
      }
      if ((header.type ?? 'file') !== 'file') throw new Error(`${member} is a ${header.type}, not a file`)
      await using out = await open(file, 'wx', 0o700)
      for await (const chunk of body) await out.writeFile(chunk)
      return true
    }
  } catch (cause) {
    signal.throwIfAborted()
    throw new Error(`the archive can't be unpacked (${messageOf(cause)}); it is not what the project publishes`, { cause })
  }
  return false
}
