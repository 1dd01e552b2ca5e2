// What the runner counts, on test files made for it: every way in which a file can fail must count as a failure.

import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { run } from '../../tests/support/command.ts'

const runner = path.join(import.meta.dirname, 'node-tests.ts')

const files = {
  'fine.test.ts':
    "import { test } from 'node:test'\ntest('one', () => {})\ntest('two', () => {})\ntest('later', { skip: 'why' }, () => {})\n",
  'red.test.ts': "import { test } from 'node:test'\ntest('one', () => {})\ntest('two', () => { throw new Error('red') })\n",
  'crash.test.ts': "import { test } from 'node:test'\ntest('one', () => {})\nthrow new Error('while loading')\n",
  'hang.test.ts': "import { test } from 'node:test'\ntest('never ends', () => new Promise(() => setInterval(() => {}, 1000)))\n",
  'vm.test.ts':
    "import { appendFileSync } from 'node:fs'\nimport { test } from 'node:test'\ntest('boots', () => appendFileSync(process.env['HYPEMAN_VM_COUNT_FILE'] ?? '', 'a\\nb\\n'))\n",
  'dirty.test.ts':
    "import { writeFileSync } from 'node:fs'\nimport { tmpdir } from 'node:os'\nimport { test } from 'node:test'\ntest('leaves a file', () => writeFileSync(tmpdir() + '/left', ''))\n",
}

// The check for leftovers counts as one more test of each run.
const expected: Readonly<Record<keyof typeof files, object>> = {
  'fine.test.ts': { passed: 3, failed: 0, skipped: 1, vmsBooted: 0 },
  'red.test.ts': { passed: 2, failed: 1, skipped: 0, vmsBooted: 0 },
  'crash.test.ts': { passed: 1, failed: 1, skipped: 0, vmsBooted: 0 },
  'hang.test.ts': { passed: 1, failed: 1, skipped: 0, vmsBooted: 0 },
  'vm.test.ts': { passed: 2, failed: 0, skipped: 0, vmsBooted: 2 },
  'dirty.test.ts': { passed: 1, failed: 1, skipped: 0, vmsBooted: 0 },
}

for (const [name, source] of Object.entries(files)) {
  test(`${name} is counted as it ended`, async () => {
    const directory = await mkdtemp(path.join(tmpdir(), 'counted-'))
    try {
      await writeFile(path.join(directory, name), source)
      assert.deepEqual(await outcomeOf(path.join(directory, name)), expected[name as keyof typeof files])
    } finally {
      await rm(directory, { recursive: true })
    }
  })
}

test('no file at all is no success', async () => {
  assert.deepEqual(await outcomeOf(), { passed: 0, failed: 0, skipped: 0, vmsBooted: 0 })
})

async function outcomeOf(...testFiles: string[]): Promise<unknown> {
  const program = `import { runNodeTests } from ${JSON.stringify(runner)}
console.log(JSON.stringify(await runNodeTests({ files: process.argv.slice(1), concurrency: 1, timeoutMs: 2_000 })))`
  // node:test refuses to run inside a test of its own; this variable is how it knows.
  const { NODE_TEST_CONTEXT: _inside, ...env } = process.env
  const { stdout } = await run(process.execPath, ['--input-type=module', '--eval', program, '--', ...testFiles], { env })
  return JSON.parse(stdout.trim().split('\n').at(-1) ?? '')
}
