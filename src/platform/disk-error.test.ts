import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isHypemanError } from '../api/errors.ts'
import { diskError } from './disk-error.ts'

test('a full disk becomes an error that names the path', () => {
  const error = diskError('/data/x', Object.assign(new Error('no'), { code: 'ENOSPC' }))
  assert.ok(isHypemanError(error, 'storage_full') && error.message.includes('/data/x'))
})
