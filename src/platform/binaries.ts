// The programs of a hypervisor on this host: the one that new machines start on, and the one that wrote an older memory image.

import { execa } from 'execa'
import { HypemanError } from '../api/errors.ts'

/** A program and the version that it says it has. */
export interface Binary {
  /** Absolute, or a name that is found on PATH. */
  readonly path: string
  readonly version: string
}

export interface Binaries {
  /** The one that new machines start on; `host_unavailable` where there is none that runs. One that was replaced is asked again after `forget`. */
  usual(): Promise<Binary>
  /** One of just that version, for a memory image that it wrote; undefined where there is none. */
  of(version: string): Promise<Binary | undefined>
  forget(): void
}

export interface WantedBinary {
  /** Absolute, or a name that is found on PATH. */
  readonly command: string
  /** Finds the version, its first group, in what `--version` prints. */
  readonly pattern: RegExp
  /** What to do where it can't be run: the end of a sentence. */
  readonly advice: string
}

export function findBinaries(wanted: WantedBinary): Binaries {
  let found: Promise<Binary> | undefined
  const usual = (): Promise<Binary> => {
    found ??= ask(wanted)
    found.catch(() => (found = undefined))
    return found
  }
  return {
    usual,
    async of(version) {
      const here = await usual()
      return here.version === version ? here : undefined
    },
    forget() {
      found = undefined
    },
  }
}

/** How long a program may take to say its version, in milliseconds. */
const VERSION_LIMIT_MS = 10_000

async function ask({ command, pattern, advice }: WantedBinary): Promise<Binary> {
  try {
    const { stdout } = await execa(command, ['--version'], { timeout: VERSION_LIMIT_MS })
    const version = pattern.exec(stdout)?.[1]
    if (version !== undefined) return { path: command, version }
    throw new Error(`it says ${JSON.stringify(stdout.slice(0, 80))}`)
  } catch (cause) {
    throw new HypemanError('host_unavailable', `${command} can't be run; ${advice}`, { cause })
  }
}
