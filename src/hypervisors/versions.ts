// A driver's versions: what memory that is written now needs, which program goes on from memory that was written before, and what becomes of a program that was replaced.

import { HypemanError, isHypemanError } from '../api/errors.ts'
import type { Binaries, Binary } from '../platform/binaries.ts'
import type { VersionStamp } from './driver.ts'

export interface Versions {
  /** As `Hypervisor.stamp`. */
  readonly stamp: (version?: string) => Promise<VersionStamp>
  /** What `stamp` is of: without a version, what new machines start on. `host_unavailable` where it can't be run. */
  readonly programFor: (version?: string) => Promise<Binary>
  /** A program of just the version that wrote an image, or `incompatible_version`. */
  readonly writerOf: (wanted: VersionStamp) => Promise<Binary>
  /** A program that was replaced while the server runs is asked for its version again. */
  readonly onSameVersion: <T>(start: () => Promise<T>) => Promise<T>
}

export interface VersionWords {
  /** Of what the version is, before it: `on macOS `. */
  readonly before?: string
  /** Another version can't be had on this host. */
  readonly isOne?: boolean
}

export function versionsOf(
  binaries: Pick<Binaries, 'usual' | 'of' | 'forget'>,
  kind: Omit<VersionStamp, 'version'>,
  { before = '', isOne = false }: VersionWords = {},
): Versions {
  const programFor: Versions['programFor'] = async (version) =>
    (version === undefined ? undefined : await binaries.of(version)) ?? (await binaries.usual())
  const stamp: Versions['stamp'] = async (version) => ({ ...kind, version: (await programFor(version)).version })
  return {
    stamp,
    programFor,
    async writerOf(wanted) {
      const fits =
        kind.hypervisor === wanted.hypervisor && kind.machineType === wanted.machineType && kind.accelerator === wanted.accelerator
      const writer = fits ? await binaries.of(wanted.version) : undefined
      if (writer !== undefined) return writer
      const here = await stamp()
      throw new HypemanError(
        'incompatible_version',
        `the memory image was written by ${stampWords(wanted, before)}, here is ${stampWords(here, before)}; start from the disks (target_state Stopped)${isOne ? '' : ', or use the version that wrote it'}`,
      )
    },
    async onSameVersion(start) {
      try {
        return await start()
      } catch (error) {
        if (isHypemanError(error, 'incompatible_version')) binaries.forget()
        throw error
      }
    },
  }
}

/** What wrote a memory image, or would; `before` comes before the version. */
export function stampWords({ hypervisor, version, machineType, accelerator }: VersionStamp, before = ''): string {
  return `${hypervisor} ${before}${version} (${machineType}, ${accelerator})`
}

/** Of a process that says another version than its program was known by. */
export function replacedProgram(program: string, is: string, was: string): HypemanError {
  return new HypemanError(
    'incompatible_version',
    `${program} is ${is} now instead of ${was}: it was replaced while the server ran; try again`,
  )
}
