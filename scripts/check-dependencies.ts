// Checks what we depend on against the rules of scripts/dependencies/rules.ts; exits 1 if one is broken. Part of `npm run lint`.
// Prints which packages are new since the last commit, so that a review sees the whole closure and not one line of package.json.

import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { z } from 'zod'
import { complaints, lockFile, manifestFile, newPackages } from './dependencies/rules.ts'

const root = path.join(import.meta.dirname, '..')
const lock = lockFile.parse(readJson('package-lock.json'))

const added = newPackages(
  lockFile.parse(
    JSON.parse(execFileSync('git', ['show', 'HEAD:package-lock.json'], { cwd: root, encoding: 'utf8', maxBuffer: 64 * 1024 ** 2 })),
  ),
  lock,
)
if (added.length > 0) console.log(`New in the closure since the last commit: ${added.join(', ')}`)

const broken = complaints({
  lock,
  manifest: manifestFile.parse(readJson('package.json')),
  page: readFileSync(path.join(root, 'docs/decisions/dependencies.md'), 'utf8'),
  statedLicence,
})
for (const complaint of broken) console.error(complaint)
process.exitCode = broken.length > 0 ? 1 : 0

// Packages from before SPDX state `licenses: [{ type }]`.
function statedLicence(place: string): string | undefined {
  const old = z.object({ licenses: z.array(z.object({ type: z.string() })).min(1) }).safeParse(readJson(path.join(place, 'package.json')))
  return old.success ? old.data.licenses.map(({ type }) => type).join(' AND ') : undefined
}

function readJson(file: string): unknown {
  return JSON.parse(readFileSync(path.join(root, file), 'utf8'))
}
