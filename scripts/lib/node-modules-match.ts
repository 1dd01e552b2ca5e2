// Exits 0 if node_modules holds exactly the packages of package-lock.json, else 1 with the first difference on stderr.
// Trusts npm's own stamp, node_modules/.package-lock.json, which is written last; it does not look into the packages.
// Packages that the lock file calls optional (other platforms) may be absent.

import { readFileSync } from 'node:fs'
import path from 'node:path'

interface Locked {
  readonly version?: string
  readonly integrity?: string
  readonly optional?: boolean
}
type Packages = Readonly<Record<string, Locked>>

const root = process.argv[2] ?? '.'
const difference = firstDifference()
if (difference !== undefined) {
  console.error(difference)
  process.exitCode = 1
}

function firstDifference(): string | undefined {
  const wanted = packagesOf(path.join(root, 'package-lock.json'))
  const installed = packagesOf(path.join(root, 'node_modules', '.package-lock.json'))
  if (wanted === undefined) return 'package-lock.json cannot be read'
  if (installed === undefined) return 'node_modules is not the work of a finished npm ci'
  for (const [place, locked] of Object.entries(wanted)) {
    if (place === '') continue
    const found = installed[place]
    if (found === undefined && locked.optional === true) continue
    if (found?.version !== locked.version || found?.integrity !== locked.integrity) {
      return `${place}: ${locked.version} is locked, ${found?.version ?? 'nothing'} is installed`
    }
  }
  const stray = Object.keys(installed).find((place) => wanted[place] === undefined)
  return stray === undefined ? undefined : `${stray} is installed but not locked`
}

function packagesOf(file: string): Packages | undefined {
  try {
    const { packages } = JSON.parse(readFileSync(file, 'utf8')) as { packages?: Packages }
    return packages
  } catch (error) {
    if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}
