// Tells whether two directories hold the same: what is found in one need not be looked for in the other.

import { createHash, type Hash } from 'node:crypto'
import { closeSync, lstatSync, openSync, readdirSync, readSync } from 'node:fs'
import path from 'node:path'
import { extentsOf } from '../../../src/files/extents.ts'

/** Digest over names, modes, link counts and contents; of logs, which nothing depends on, over the names alone. */
export function digestOfTree(root: string): string {
  const hash = createHash('sha256')
  addDirectory(hash, root, '')
  return hash.digest('hex')
}

function addDirectory(hash: Hash, root: string, below: string): void {
  for (const name of readdirSync(path.join(root, below)).toSorted()) {
    const at = path.join(below, name)
    const file = lstatSync(path.join(root, at))
    hash.update(`${at} ${file.mode}\n`)
    if (file.isDirectory()) addDirectory(hash, root, at)
    else if (file.isFile() && !`/${at}`.includes('/logs/')) {
      hash.update(`${file.size} ${file.nlink}\n`)
      addContent(hash, path.join(root, at), file.size)
    }
  }
}

/** Holes are not read: disks are mostly holes. */
function addContent(hash: Hash, file: string, size: number): void {
  const fd = openSync(file, 'r')
  try {
    for (const { from, to } of extentsOf(fd, size, file)) {
      const bytes = Buffer.alloc(to - from)
      readSync(fd, bytes, 0, bytes.length, from)
      hash.update(`${from}\n`).update(bytes)
    }
  } finally {
    closeSync(fd)
  }
}
