// What there is of hypervisors on this host: for people, and for `hypeman doctor`.

import type { DataLayout } from '../files/layout.ts'
import type { Hypervisor, HypervisorName } from '../hypervisors/driver.ts'
import type { Release } from '../hypervisors/release.ts'
import { installedVersions, type Binary } from '../platform/binaries.ts'
import { found, lacking, type Probe } from '../platform/probe.ts'

export interface KnownProgram {
  readonly hypervisor: HypervisorName
  readonly version: string
  /** Absolute path of one that is installed here; null: on PATH, or where a setting says. */
  readonly path: string | null
  /** New machines start on it. */
  readonly usual: boolean
}

/** Every version that is installed, newest first, and what new machines start on. */
export async function knownPrograms(
  layout: DataLayout,
  drivers: readonly Hypervisor[],
  releases: readonly Release[],
): Promise<readonly KnownProgram[]> {
  const names = [...new Set([...drivers, ...releases.map(({ hypervisor }) => ({ name: hypervisor }))].map(({ name }) => name))].toSorted()
  const all = await Promise.all(
    names.map(async (hypervisor) => {
      const usual = await usualProgram(drivers.find(({ name }) => name === hypervisor))
      const installed = await installedOf(layout, releases, hypervisor)
      const known = installed.map(({ version, path }) => ({ hypervisor, version, path, usual: path === usual?.path }))
      const isElsewhere = usual !== undefined && !known.some((one) => one.usual)
      return isElsewhere ? [{ hypervisor, version: usual.version, path: null, usual: true }, ...known] : known
    }),
  )
  return all.flat()
}

/** One fact for each hypervisor: what it can do here, or why it can't run and what to do about it. */
export function probeHypervisors(
  layout: DataLayout,
  drivers: readonly Hypervisor[],
  releases: readonly Release[],
  preferred: HypervisorName,
): Promise<Probe[]> {
  return Promise.all(
    drivers.map(async (driver) => {
      const { name, features } = driver
      const isDefault = name === preferred
      const release = releases.find(({ hypervisor }) => hypervisor === name)
      const fix = `hypeman hypervisor install ${name}@<version>`
      const wording = {
        name: `hypervisor ${name}`,
        essential: isDefault,
        good: `${isDefault ? 'runs instances by default' : 'runs instances that ask for it'} (${features.join(', ')})`,
        bad: isDefault ? 'no instance can run that does not ask for another hypervisor' : 'no instance can run on it',
      }
      const reason = await driver.unavailable()
      if (reason !== undefined) {
        const canInstall = release?.published('1.0', process.arch) !== undefined && !(await runs(driver))
        return lacking(canInstall ? { ...wording, fix } : wording, reason)
      }
      const { version } = await driver.stamp()
      const jailed = (await driver.jailed?.()) === true ? ', jailed' : ''
      const others = (await installedOf(layout, releases, name)).flatMap((one) => (one.version === version ? [] : [one.version]))
      return found(wording, others.length === 0 ? `${version}${jailed}` : `${version}${jailed}, and for older memory ${others.join(', ')}`)
    }),
  )
}

async function installedOf(layout: DataLayout, releases: readonly Release[], hypervisor: HypervisorName): Promise<readonly Binary[]> {
  const release = releases.find((one) => one.hypervisor === hypervisor)
  return release === undefined ? [] : await installedVersions({ directory: layout.hypervisor(hypervisor), program: release.program })
}

/** Undefined for one that can't run here. Its path, where it may be an installed one: another program may have the same version. */
async function usualProgram(
  driver: Hypervisor | undefined,
): Promise<{ readonly version: string; readonly path: string | undefined } | undefined> {
  if (driver === undefined || (await driver.unavailable()) !== undefined) return undefined
  return { version: (await driver.stamp()).version, path: await driver.program?.() }
}

/** Installing one helps where none runs, and not where something else is missing. */
async function runs(driver: Hypervisor): Promise<boolean> {
  return driver.stamp().then(
    () => true,
    () => false,
  )
}
