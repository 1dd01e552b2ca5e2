// Tools of the host: what is told of one that is missing, fails, or takes too long.

import assert from 'node:assert/strict'
import os from 'node:os'
import { test } from 'node:test'
import { isHypemanError } from '../api/errors.ts'
import { runTool, ToolError } from './tool.ts'

const run = { cwd: os.tmpdir(), signal: new AbortController().signal }

test('a tool that is not installed is host_unavailable, and the message says what to run', async () => {
  await assert.rejects(
    runTool('hypeman-has-no-such-tool', [], run),
    (error) =>
      isHypemanError(error, 'host_unavailable') && /hypeman-has-no-such-tool is not installed; run npm run setup/.test(error.message),
  )
})

test('one that fails tells what it said', async () => {
  await assert.rejects(
    runTool('sh', ['-c', 'echo no good >&2; exit 3'], run),
    (error) => error instanceof ToolError && /no good/.test(error.message),
  )
  assert.equal((await runTool('sh', ['-c', 'cat'], { ...run, input: 'well' })).toString(), 'well')
})
