// Files of the kernel's that are there only where it can do what they tell of.

import { readFile } from 'node:fs/promises'
import { isMissing } from '../files/tree.ts'

/** Empty if there is none: a kernel without IPv6 has no list of its connections, for one. */
export async function readIfThere(file: string): Promise<string> {
  return readFile(file, 'utf8').catch((error: unknown) => {
    if (isMissing(error)) return ''
    throw error
  })
}
