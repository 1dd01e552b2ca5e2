// The lint rules themselves: bad code planted in a copy of the tree's shape must turn red, and good code must stay green.
// A rule that silently matches nothing would otherwise pass for years.

import assert from 'node:assert/strict'
import { copyFile, mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { z } from 'zod'
import { folders } from '../../oxlint.config.ts'
import { run } from '../support/command.ts'

const root = path.join(import.meta.dirname, '..', '..')

test('the import table names exactly the folders that src has', async () => {
  const entries = await readdir(path.join(root, 'src'), { withFileTypes: true })
  const present = entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name)
  assert.deepEqual(Object.keys(folders).toSorted(), present.toSorted())
  for (const [name, folder] of Object.entries(folders)) {
    for (const other of folder.imports) assert.ok(folders[other], `${name} may import ${other}, which is not in the table`)
  }
})

test('the import table points downwards: no two folders may import each other, directly or through others', () => {
  const reach = (name: string, seen: ReadonlySet<string>): void => {
    assert.ok(!seen.has(name), `${[...seen, name].join(' → ')} is a circle`)
    for (const other of folders[name]?.imports ?? []) reach(other, new Set([...seen, name]))
  }
  for (const name of Object.keys(folders)) reach(name, new Set())
})

test('each import that the table does not allow is red, each that it allows is green, at every depth', async () => {
  const planted = plantedImports()
  const red = await filesWithError('no-restricted-imports', Object.fromEntries(planted.map(({ file, source }) => [file, source])))
  const wanted = planted.filter((plant) => !plant.allowed).map((plant) => plant.file)
  assert.deepEqual(red.toSorted(), wanted.toSorted())
  assert.ok(wanted.length > 100 && wanted.length < planted.length)
})

test('node: imports in src/api, dense copies outside src/files, and one hypervisor importing another are red', async () => {
  const sources = {
    'src/api/io.ts': "import { readFile } from 'node:fs/promises'\nexport const read = readFile\n",
    'src/images/dense.ts': "import { copyFile } from 'node:fs/promises'\nexport const copy = copyFile\n",
    'src/images/dense-too.ts': "import fs from 'node:fs'\nexport const copy = (): void => fs.cpSync('a', 'b')\n",
    'src/hypervisors/qemu/cross.ts': "import { x } from '../firecracker/process.ts'\nexport const y = x\n",
    'src/files/copy.ts': "import { copyFile } from 'node:fs/promises'\nexport const copy = copyFile\n",
    'src/images/read.ts': "import { readFile } from 'node:fs/promises'\nexport const read = readFile\n",
    'src/hypervisors/qemu/fine.ts': "import { x } from '../driver.ts'\nexport const y = x\n",
  }
  const red = await filesWithError(/no-restricted-(imports|properties)/, sources)
  assert.deepEqual(red.toSorted(), ['src/api/io.ts', 'src/hypervisors/qemu/cross.ts', 'src/images/dense-too.ts', 'src/images/dense.ts'])
})

const badCode: Readonly<Record<string, string>> = {
  'no-cycle': "import { b } from './other.ts'\nexport const a = (): number => b()\n",
  'no-floating-promises': 'async function work(): Promise<void> {}\nexport function start(): void {\n  work()\n}\n',
  'switch-exhaustiveness-check':
    "export function f(x: 'a' | 'b'): number {\n  switch (x) {\n    case 'a':\n      return 1\n  }\n  return 0\n}\n",
  'max-lines': `${Array.from({ length: 301 }, (_, n) => `export const line${n} = ${n}`).join('\n')}\n`,
  'no-empty': 'export function f(): void {\n  try {\n    JSON.parse("")\n  } catch {}\n}\n',
  'no-explicit-any': 'export const x = (y: any): void => console.log(y)\n',
  'no-process-env': "export const home = process.env['HOME']\n",
  'no-default-export': 'export default 1\n',
  'ban-ts-comment': '// @ts-ignore\nexport const x: number = "1"\n',
}

for (const [rule, source] of Object.entries(badCode)) {
  test(`${rule} is red where it is broken`, async () => {
    const other = "import { a } from './planted.ts'\nexport const b = (): number => a()\n"
    const red = await filesWithError(rule, {
      'src/images/planted.ts': source,
      ...(rule === 'no-cycle' ? { 'src/images/other.ts': other } : {}),
    })
    assert.ok(red.includes('src/images/planted.ts'), `${rule} did not fire`)
  })
}

test('300 code lines are green however many blank lines and comments there are', async () => {
  const source = Array.from({ length: 300 }, (_, n) => `// line ${n}\n\nexport const line${n} = ${n}`).join('\n')
  assert.deepEqual(await filesWithError('max-lines', { 'src/images/long.ts': `${source}\n` }), [])
})

test('process.env is green in platform/config.ts, in tests and in scripts', async () => {
  const source = "export const home = process.env['HOME']\n"
  const sources = {
    'src/platform/config.ts': source,
    'src/platform/x.test.ts': source,
    'scripts/x.ts': source,
    'bench/x.ts': source,
    'tests/support/x.ts': source,
  }
  assert.deepEqual(await filesWithError('no-process-env', sources), [])
})

interface Plant {
  readonly file: string
  readonly source: string
  readonly allowed: boolean
}

// For every two folders and depth: an import through a door and, where doors are few, one around them.
function plantedImports(): Plant[] {
  return Object.entries(folders).flatMap(([from, folder]) =>
    Object.entries(folders).flatMap(([to, { doors }]) => {
      if (from === to) return []
      const allowed = folder.imports.includes(to)
      return [1, 2, 3].flatMap((depth) => {
        const up = '../'.repeat(depth)
        const at = (kind: string): string => `src/${from}/${['', 'in/', 'in/deep/'][depth - 1]}${kind}-${to}.ts`
        const imports = (target: string): string => `import { x } from '${up}${to}/${target}'\nexport const y = x\n`
        const throughDoor = { file: at('door'), source: imports(doors === 'all' ? 'any/file.ts' : (doors[0] ?? '')), allowed }
        return doors === 'all' ? [throughDoor] : [throughDoor, { file: at('around'), source: imports('inner.ts'), allowed: false }]
      })
    }),
  )
}

const report = z.object({ diagnostics: z.array(z.object({ code: z.string().optional(), filename: z.string() })) })

/** Lints the sources in a tree of their own under the project's configuration; returns the files with an error of the rule. */
async function filesWithError(rule: string | RegExp, sources: Readonly<Record<string, string>>): Promise<string[]> {
  const tree = await mkdtemp(path.join(tmpdir(), 'lint-'))
  try {
    for (const file of ['oxlint.config.ts', 'tsconfig.json', 'package.json']) await copyFile(path.join(root, file), path.join(tree, file))
    await symlink(path.join(root, 'node_modules'), path.join(tree, 'node_modules'))
    for (const [file, source] of Object.entries(sources)) {
      await mkdir(path.dirname(path.join(tree, file)), { recursive: true })
      await writeFile(path.join(tree, file), source)
    }
    const { stdout } = await run(path.join(root, 'node_modules', '.bin', 'oxlint'), ['--format', 'json'], { cwd: tree })
    const { diagnostics } = report.parse(JSON.parse(stdout))
    const hits = diagnostics.filter(({ code }) => (typeof rule === 'string' ? (code ?? '').includes(`(${rule})`) : rule.test(code ?? '')))
    return [...new Set(hits.map((hit) => hit.filename))]
  } finally {
    await rm(tree, { recursive: true })
  }
}
