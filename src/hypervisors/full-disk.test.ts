import assert from 'node:assert/strict'
import { test } from 'node:test'
import { diskMissing, mountDisk } from '../../tests/support/loop-disk.ts'
import { isHypemanError } from '../api/errors.ts'
import { orFull } from './full-disk.ts'

test('a refusal is a full disk’s where the disk is full, and else what it is', { skip: diskMissing('tmpfs') }, async () => {
  await using disk = await mountDisk('tmpfs', 8)
  const refusal = new Error('no luck')
  assert.equal(await orFull(disk.path, refusal), refusal)
  await disk.fill(512 * 1024)
  const full = await orFull(disk.path, refusal)
  assert.ok(isHypemanError(full, 'storage_full') && full.cause === refusal && full.message.includes(disk.path), String(full))
  await disk.freeUp()
  assert.equal(await orFull(disk.path, refusal), refusal)
})
