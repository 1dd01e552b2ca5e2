// The error table, the code and the documentation say the same: each row can come out of the product, whatever comes out has a row, and docs/api.md has both.

import assert from 'node:assert/strict'
import { globSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { catalogue } from '../../src/api/errors.ts'

const root = path.join(import.meta.dirname, '..', '..')
const table = path.join('src', 'api', 'errors.ts')

async function productSources(): Promise<{ readonly file: string; readonly text: string }[]> {
  const files = globSync('src/**/*.ts', { cwd: root, exclude: ['**/*.test.ts', table] })
  assert.ok(files.length > 100)
  return Promise.all(files.map(async (file) => ({ file, text: await readFile(path.join(root, file), 'utf8') })))
}

/** Without what only names codes: lists of an operation's errors, types, and questions about an error that somebody else made. */
function withoutMentions(text: string): string {
  return withoutErrorLists(text)
    .replaceAll(/'\w+'(?:\s*\|\s*'\w+')+/g, '')
    .replaceAll(/isHypemanError\([^)]*\)/g, '')
    .replaceAll(/\/\*\*?[^]*?\*\/|\/\/.*/g, '')
}

function withoutErrorLists(text: string): string {
  const start = text.indexOf("'x-error-codes': [")
  if (start < 0) return text
  let [end, depth] = [text.indexOf('[', start), 0]
  do {
    if (text[end] === '[') depth += 1
    if (text[end] === ']') depth -= 1
    end += 1
  } while (depth > 0 && end < text.length)
  return text.slice(0, start) + withoutErrorLists(text.slice(end))
}

test('every row of the error table is made somewhere', async () => {
  const sources = (await productSources()).map(({ text }) => withoutMentions(text)).join('\n')
  const dead = Object.keys(catalogue).filter((code) => !sources.includes(`'${code}'`))
  assert.deepEqual(dead, [])
})

test('every error that is thrown by its code has a row', async () => {
  let thrown = 0
  for (const { file, text } of await productSources())
    for (const [, code = ''] of text.matchAll(/HypemanError\(\s*'(\w+)'/g)) {
      thrown += 1
      assert.ok(code in catalogue, `${file}: ${code}`)
    }
  assert.ok(thrown > 100)
})

test('docs/api.md has a row for every error, with its status, and no other', async () => {
  const text = await readFile(path.join(root, 'docs', 'api.md'), 'utf8')
  const [, section = ''] = /\n## [^\n]*[Ee]rror[^\n]*\n([^]*?)(?=\n## |$)/.exec(text) ?? []
  const rows = [...section.matchAll(/^\| `(\w+)` \| (\d{3}) \|/gm)].map(([, code = '', status]) => [code, Number(status)] as const)
  assert.deepEqual(new Map(rows), new Map(Object.entries(catalogue).map(([code, { status }]) => [code, status])))
})
