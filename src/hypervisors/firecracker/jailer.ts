// Firecracker's jailer on this host: whether processes are started by it, and which program it is. It must be of Firecracker's own version.

import { stat } from 'node:fs/promises'
import path from 'node:path'
import { HypemanError } from '../../api/errors.ts'
import { findBinaries, type Binary } from '../../platform/binaries.ts'
import { messageOf } from '../../platform/flow.ts'
import type { Jailer } from './jail.ts'

/** `auto`: where it can be had. */
export type Jailing = 'off' | 'auto' | 'on'

export interface Jailers {
  /** What a Firecracker is to be started by; undefined: by nothing. `host_unavailable` where there has to be one and is none. */
  of(firecracker: Binary): Promise<Jailer | undefined>
}

const PROGRAM = 'jailer'
const wanted = { pattern: /^Jailer v(\S+)/, advice: 'install the one that is released with Firecracker' }

/** `isRoot`: whether this process may make jails. */
export function findJailers(jailing: Jailing, isRoot: boolean, dataDirectory: string): Jailers {
  /** By path and what lies there: another file may be of another version. */
  const asked = new Map<string, Promise<Binary>>()
  const versionOf = async (file: string): Promise<Binary> => {
    const { ino, mtimeMs } = await stat(file)
    const key = `${file} ${ino} ${mtimeMs}`
    const known = asked.get(key) ?? findBinaries({ ...wanted, command: file }).usual()
    asked.set(key, known)
    known.catch(() => asked.delete(key))
    return known
  }
  const find = async (firecracker: Binary): Promise<Binary> => {
    if (!isRoot) throw new Error('only root can make jails')
    const beside = path.join(path.dirname(firecracker.path), PROGRAM)
    const found = await Promise.allSettled([versionOf(beside), findBinaries({ ...wanted, command: PROGRAM }).usual()])
    const there = found.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
    const fitting = there.find(({ version }) => version === firecracker.version)
    if (fitting !== undefined) return fitting
    const [other] = there
    if (other !== undefined) throw new Error(`${other.path} is version ${other.version}, and Firecracker ${firecracker.version}`)
    const [broken] = found
    const isMissing =
      broken.status === 'rejected' && broken.reason instanceof Error && 'code' in broken.reason && broken.reason.code === 'ENOENT'
    throw new Error(
      broken.status === 'rejected' && !isMissing
        ? messageOf(broken.reason)
        : `there is no program ${PROGRAM} beside ${firecracker.path} or on PATH`,
    )
  }
  return {
    async of(firecracker) {
      if (jailing === 'off') return undefined
      try {
        return { ...(await find(firecracker)), dataDirectory }
      } catch (cause) {
        if (jailing === 'auto') return undefined
        throw new HypemanError(
          'host_unavailable',
          `Firecracker can't be jailed: ${messageOf(cause)}; put the jailer of its release beside it, or turn the setting hypervisor.jailer off`,
          { cause },
        )
      }
    },
  }
}
