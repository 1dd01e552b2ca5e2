// What this server and host can do, for `GET /capabilities`: asked of the drivers, so that it is true.

import { hypervisorNames } from '../api/schemas/common.ts'
import type { Capabilities } from '../api/schemas/capabilities.ts'
import type { Hypervisor } from '../hypervisors/driver.ts'
import type { InstanceContext } from './context.ts'
import { usualKind } from './network.ts'

/** The version of the wire that the official clients speak. */
const API_VERSION = '0.3.0'

const architectures: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64' }

async function describeRuntime(driver: Hypervisor): Promise<Capabilities['runtimes'][number]> {
  const { name, features } = driver
  const reason = await driver.unavailable()
  if (reason !== undefined) return { name, available: false, features: [...features], reason }
  const isJailed = (await driver.jailed?.()) === true
  return { name, available: true, features: [...features, ...(isJailed ? ['jail'] : [])], version: (await driver.stamp()).version }
}

/** The platform of guests on this host, as images name it. */
export function hostPlatform(): string {
  return `linux/${architectures[process.arch] ?? process.arch}`
}

export async function describeCapabilities(
  context: Pick<InstanceContext, 'drivers' | 'settings' | 'hostNetwork'>,
  version: string,
): Promise<Capabilities> {
  const runtimes = await Promise.all(
    hypervisorNames.map(async (name) => {
      const driver = context.drivers.get(name)
      if (driver === undefined)
        return { name, available: false, features: [], reason: 'this server knows no such hypervisor; choose another' }
      return await describeRuntime(driver)
    }),
  )
  const { defaultHypervisor } = context.settings
  const preferred = context.drivers.get(defaultHypervisor)
  const { hostNetwork } = context
  const isOnHost = preferred !== undefined && usualKind(context, preferred) === 'tap'
  const platform = hostPlatform()
  return {
    server: { version, api_version: API_VERSION },
    host: { os: process.platform, arch: architectures[process.arch] ?? process.arch },
    default_runtime: {
      name: defaultHypervisor,
      available: runtimes.some((runtime) => runtime.name === defaultHypervisor && runtime.available),
    },
    runtimes: runtimes.toSorted((one, other) => one.name.localeCompare(other.name)),
    features: ['instances', 'images', 'volumes', 'exec', 'logs'],
    images: { default_platform: platform, platforms: [platform] },
    network: {
      model: 'nat',
      guest_to_guest: false,
      ...(isOnHost ? { gateway: hostNetwork.gateway, subnet: hostNetwork.subnet } : {}),
    },
  }
}
