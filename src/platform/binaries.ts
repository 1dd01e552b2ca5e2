// The programs of a hypervisor on this host: the one that new machines start on, and the one that wrote an older memory image. Versions lie side by
// side, each in a directory of its name below the hypervisor's own (docs/on-disk-layout.md).

import { access, constants, readdir, stat } from 'node:fs/promises'
import path from 'node:path'
import { execa } from 'execa'
import { HypemanError } from '../api/errors.ts'
import { programDirectories } from './config.ts'

/** A program and the version that it says it has. */
export interface Binary {
  /** Absolute: processes are started with another PATH than the one that it was found on. */
  readonly path: string
  readonly version: string
}

export interface Binaries {
  /**
   * The one that new machines start on: the setting's, else the newest of those that are installed and PATH's. It stays the same while its file is there, so that what was recorded of
   * a machine in the making holds; `forget` has it chosen again. `host_unavailable` where there is none that runs.
   */
  usual(): Promise<Binary>
  /** One of just that version, wherever it is, for a memory image that it wrote; undefined where there is none. */
  of(version: string): Promise<Binary | undefined>
  forget(): void
}

/** Where versions lie side by side. */
export interface InstalledPrograms {
  /** Absolute. Holds a directory for each version; need not be there. */
  readonly directory: string
  /** Name of the program's file in the directory of a version, and on PATH. */
  readonly program: string
}

export interface WantedBinary {
  /** Absolute: the setting's, which comes before all others. A name is looked for on PATH, where no version is installed. */
  readonly command: string
  readonly installed?: InstalledPrograms | undefined
  /** Finds the version, its first group, in what `--version` prints. */
  readonly pattern: RegExp
  /** What to do where it can't be run: the end of a sentence. */
  readonly advice: string
}

export function findBinaries(wanted: WantedBinary): Binaries {
  const { command, installed } = wanted
  let found: Promise<Binary> | undefined
  /** Those that were asked for by their version. */
  const others = new Map<string, Binary>()
  const choose = async (): Promise<Binary> => {
    const [newest] = installed === undefined || path.isAbsolute(command) ? [] : await installedVersions(installed)
    if (newest === undefined) return ask(command, wanted)
    // An older version may have been installed for the memory that it wrote: new machines don't go back to it.
    const onPath = await ask(command, wanted).catch(() => undefined) // there need be none
    if (onPath !== undefined && newestFirst(onPath.version, newest.version) < 0) return onPath
    return ask(newest.path, { ...wanted, advice: `install version ${newest.version} again, or remove ${path.dirname(newest.path)}` })
  }
  const usual = async (): Promise<Binary> => {
    const known = await found?.catch(() => undefined)
    if (known !== undefined && (await isThere(known.path))) return known
    const choosing = choose()
    found = choosing
    choosing.catch(() => {
      if (found === choosing) found = undefined
    })
    return choosing
  }
  return {
    usual,
    async of(version) {
      const known = others.get(version)
      if (known !== undefined && (await isThere(known.path))) return known
      const places = installed === undefined ? [] : [...(isVersion(version) ? [programOf(installed, version)] : []), installed.program]
      for (const find of [usual, ...places.map((file) => () => ask(file, wanted))]) {
        // One that can't be run is none of that version.
        const binary = await find().catch(() => undefined)
        if (binary?.version !== version) continue
        others.set(version, binary)
        return binary
      }
      others.delete(version)
      return undefined
    },
    forget() {
      found = undefined
      others.clear()
    },
  }
}

/** What is installed, by the directories' word, newest first. */
export async function installedVersions(installed: InstalledPrograms): Promise<readonly Binary[]> {
  const names = await readdir(installed.directory).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return []
    throw new HypemanError('host_unavailable', `the versions of ${installed.program} in ${installed.directory} can't be listed`, {
      cause: error,
    })
  })
  const all = names.filter(isVersion).map((version) => ({ path: programOf(installed, version), version }))
  const there = await Promise.all(all.map((one) => isThere(one.path)))
  return all.filter((_, index) => there[index]).toSorted((one, other) => newestFirst(one.version, other.version))
}

/** Whether a text can be the name of a version's directory. */
function isVersion(text: string): boolean {
  return /^\d[\w.+~-]*$/.test(text)
}

/** By the numbers in them; a version comes before its own pre-releases (`1.2.0-rc1`). */
function newestFirst(one: string, other: string): number {
  const [[oneNumber, onePre], [otherNumber, otherPre]] = [parted(one), parted(other)]
  const byNumber = otherNumber.localeCompare(oneNumber, 'en', { numeric: true })
  if (byNumber !== 0) return byNumber
  if (onePre === '' || otherPre === '') return onePre.length - otherPre.length
  return otherPre.localeCompare(onePre, 'en', { numeric: true })
}

function parted(version: string): readonly [number: string, pre: string] {
  const dash = version.indexOf('-')
  return dash < 0 ? [version, ''] : [version.slice(0, dash), version.slice(dash)]
}

function programOf({ directory, program }: InstalledPrograms, version: string): string {
  return path.join(directory, version, program)
}

async function isThere(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  )
}

/** The absolute path of a program: the first on this process's PATH that can be run, unless its name is one already. */
async function located(command: string): Promise<string> {
  if (path.isAbsolute(command)) return command
  if (command.includes(path.sep)) return path.resolve(command)
  for (const directory of programDirectories()) {
    const file = path.resolve(directory, command)
    if (await isProgram(file)) return file
  }
  throw new Error(`there is no program ${command} on PATH`)
}

async function isProgram(file: string): Promise<boolean> {
  try {
    await access(file, constants.X_OK)
    return (await stat(file)).isFile()
  } catch {
    return false // not there, or not for us
  }
}

/** How long a program may take to say its version, in milliseconds. */
const VERSION_LIMIT_MS = 10_000

async function ask(command: string, { pattern, advice }: Pick<WantedBinary, 'pattern' | 'advice'>): Promise<Binary> {
  try {
    const file = await located(command)
    const { stdout } = await execa(file, ['--version'], { timeout: VERSION_LIMIT_MS })
    const version = pattern.exec(stdout)?.[1]
    if (version !== undefined) return { path: file, version }
    throw new Error(`it says ${JSON.stringify(stdout.slice(0, 80))}`)
  } catch (cause) {
    throw new HypemanError('host_unavailable', `${command} can't be run; ${advice}`, { cause })
  }
}
