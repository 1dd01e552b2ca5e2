// What a refusal has to be, for `assert.rejects`.

import assert from 'node:assert/strict'
import { APIError } from '@onkernel/hypeman'

/** The error is the API's answer with that status, and its message is one that matches. */
export const refusedWith =
  (status: number, message: RegExp) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof APIError, String(error))
    assert.equal(error.status, status, error.message)
    assert.match(error.message, message)
    return true
  }
