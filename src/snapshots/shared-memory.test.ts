// Who names a memory file: whatever comes, changes and goes, the counts are those of what is there.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { SharedMemory, type MemoryName } from './shared-memory.ts'

const names = fc.uniqueArray(
  fc.record({ inode: fc.constantFrom('1', '2', '3'), name: fc.constantFrom('memory-1.base', 'memory-1.diff'), isCompressed: fc.boolean() }),
  { selector: ({ inode }) => inode, maxLength: 3 },
)
const change = fc.record({ id: fc.constantFrom('a', 'b', 'c', 'd'), names: fc.option(names) })

test('others that name a file, and have it compressed, are counted as they are at the time', () => {
  fc.assert(
    fc.property(fc.array(change, { maxLength: 30 }), (changes) => {
      const shared = new SharedMemory()
      const there = new Map<string, readonly MemoryName[]>()
      for (const { id, names: seen } of changes)
        if (seen === null) {
          shared.forget(id)
          there.delete(id)
        } else {
          shared.set(id, seen)
          there.set(id, seen)
        }
      for (const id of ['a', 'b', 'c', 'd'])
        for (const inode of ['1', '2', '3']) {
          const others = [...there].filter(([other]) => other !== id).flatMap(([other, seen]) => seen.map((one) => ({ ...one, id: other })))
          const users = others.filter((one) => one.inode === inode)
          const compressed = users.filter(({ isCompressed }) => isCompressed)
          assert.deepEqual(shared.others(id, inode), { all: users.length, compressed: compressed.length })
          assert.deepEqual(
            new Set(shared.compressedElsewhere(id, inode).map((one) => `${one.id} ${one.name}`)),
            new Set(compressed.map((one) => `${one.id} ${one.name}`)),
          )
        }
    }),
  )
})
