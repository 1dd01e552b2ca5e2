// The rules for what we depend on, without I/O: licences, install scripts, exact pins, and one row of docs/decisions/dependencies.md each.
// check-dependencies.ts feeds it with the files.

import { z } from 'zod'

/** The part of package-lock.json that the rules read. */
export const lockFile = z.object({
  packages: z.record(
    z.string(),
    z.object({ version: z.string().optional(), license: z.string().optional(), hasInstallScript: z.boolean().optional() }),
  ),
})
export type LockFile = z.infer<typeof lockFile>

const pins = z.record(z.string(), z.string()).default({})
/** The part of package.json that the rules read. */
export const manifestFile = z.object({ dependencies: pins, devDependencies: pins, optionalDependencies: pins })
export type ManifestFile = z.infer<typeof manifestFile>

export interface Dependencies {
  readonly lock: LockFile
  readonly manifest: ManifestFile
  /** Text of docs/decisions/dependencies.md. */
  readonly page: string
  /** Licence of a package whose lock entry names none, from its own package.json; undefined if that names none either. */
  readonly statedLicence: (place: string) => string | undefined
}

const allowedLicences = new Set([
  ...['MIT', 'MIT-0', 'ISC', '0BSD', 'BSD-2-Clause', 'BSD-3-Clause', 'Apache-2.0', 'BlueOak-1.0.0', 'Unlicense', 'CC0-1.0', 'Python-2.0'],
  ...['MPL-2.0', 'Zlib'],
])

/** Packages with an install script. None is run (`ignore-scripts` in .npmrc); each is known to work without. */
const knownScripts: Readonly<Record<string, string>> = {
  koffi: 'its prebuilt library comes in a platform package',
  ssh2: 'development only, of @onkernel/hypeman; its native part is optional',
  'cpu-features': 'development only, of ssh2; optional',
  protobufjs: 'development only, of @onkernel/hypeman; the script only compares versions',
}

/** One sentence for each rule that is broken. */
export function complaints(dependencies: Dependencies): string[] {
  return [
    ...licenceComplaints(dependencies),
    ...scriptComplaints(dependencies.lock),
    ...pinComplaints(dependencies.manifest),
    ...pageComplaints(dependencies),
  ]
}

/** Packages, with versions, that `now` has and `before` has not. */
export function newPackages(before: LockFile, now: LockFile): string[] {
  const named = (lock: LockFile): Set<string> =>
    new Set(Object.entries(lock.packages).flatMap(([place, { version }]) => (place === '' ? [] : `${nameOf(place)} ${version}`)))
  return [...named(now).difference(named(before))].toSorted()
}

function licenceComplaints({ lock, statedLicence }: Dependencies): string[] {
  return installed(lock).flatMap(([place, { license }]) => {
    const licence = license ?? statedLicence(place)
    if (licence === undefined) return [`${place} names no licence`]
    return isAllowed(licence) ? [] : [`${place} has the licence ${licence}, which is not on the list`]
  })
}

// SPDX expressions: of `A OR B` one is enough, of `A AND B` each is needed.
function isAllowed(expression: string): boolean {
  const bare = expression.replace(/^\((.*)\)$/, '$1')
  if (bare.includes(' OR ')) return bare.split(' OR ').some(isAllowed)
  return bare.split(' AND ').every((licence) => allowedLicences.has(licence.trim()))
}

function scriptComplaints(lock: LockFile): string[] {
  const withScript = installed(lock).flatMap(([place, { hasInstallScript }]) => (hasInstallScript === true ? [nameOf(place)] : []))
  const unknown = withScript
    .filter((name) => knownScripts[name] === undefined)
    .map((name) => `${name} has an install script that nobody has looked at`)
  const gone = Object.keys(knownScripts).filter((name) => !withScript.includes(name))
  return [...unknown, ...gone.map((name) => `${name} is listed for its install script, and has none or is not used any more`)]
}

function pinComplaints(manifest: ManifestFile): string[] {
  return Object.entries(direct(manifest)).flatMap(([name, version]) =>
    /^\d+\.\d+\.\d+$/.test(version) ? [] : [`${name} is not pinned exactly (${version})`],
  )
}

// A row: | name | why | licence | size | install script | replaceable by |
function pageComplaints({ manifest, lock, page, statedLicence }: Dependencies): string[] {
  const rows = new Map(page.split('\n').flatMap((line) => (line.startsWith('| `') ? [rowOf(line)] : [])))
  const wanted = Object.keys(direct(manifest))
  const missing = wanted.filter((name) => !rows.has(name)).map((name) => `docs/decisions/dependencies.md has no row for ${name}`)
  const stale = [...rows.keys()]
    .filter((name) => !wanted.includes(name))
    .map((name) => `docs/decisions/dependencies.md has a row for ${name}, which package.json does not name`)
  const wrong = wanted.flatMap((name) => {
    const [, licence, , script] = rows.get(name) ?? []
    const entry = lock.packages[`node_modules/${name}`]
    if (licence === undefined || entry === undefined) return []
    const stated = entry.license ?? statedLicence(`node_modules/${name}`)
    const differs =
      licence !== stated ? [`docs/decisions/dependencies.md gives ${name} the licence ${licence}, the package says ${stated}`] : []
    return (script === 'no') === (entry.hasInstallScript === true)
      ? [...differs, `docs/decisions/dependencies.md is wrong on the install script of ${name}`]
      : differs
  })
  return [...missing, ...stale, ...wrong]
}

function rowOf(line: string): [string, string[]] {
  const [name = '', ...cells] = line
    .split('|')
    .slice(1, -1)
    .map((cell) => cell.trim())
  return [name.replaceAll('`', ''), cells]
}

function direct(manifest: ManifestFile): Record<string, string> {
  return { ...manifest.dependencies, ...manifest.devDependencies, ...manifest.optionalDependencies }
}

function installed(lock: LockFile): [string, LockFile['packages'][string]][] {
  return Object.entries(lock.packages).filter(([place]) => place !== '')
}

function nameOf(place: string): string {
  return place.slice(place.lastIndexOf('node_modules/') + 'node_modules/'.length)
}
