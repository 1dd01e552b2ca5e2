// The hypervisors of this host for commands that need no server: loaded by main.ts when one is asked for.

import path from 'node:path'
import { pino } from 'pino'
import type { HostHypervisors } from './cli/host-hypervisors.ts'
import { hypervisorReleases, makeHostDrivers } from './drivers.ts'
import { dataLayout, type DataLayout } from './files/layout.ts'
import type { Hypervisor } from './hypervisors/driver.ts'
import type { Release } from './hypervisors/release.ts'
import { loadConfig, type ServerConfig } from './platform/config.ts'
import { messageOf } from './platform/flow.ts'
import { lacking } from './platform/probe.ts'
import { installProgram, knownPrograms, probeHypervisors, removeProgram } from './programs/index.ts'

const silent = pino({ level: 'silent' })

/** `releases` are those of the projects themselves. */
export function createHostHypervisors(releases: readonly Release[] = hypervisorReleases): HostHypervisors {
  return {
    installable: releases.map(({ hypervisor }) => hypervisor),
    async probe(dataDir) {
      try {
        const { config, layout, drivers } = await open(dataDir)
        return await probeHypervisors(layout, drivers, releases, config.hypervisor.default)
      } catch (error) {
        return [lacking(settings, messageOf(error))]
      }
    },
    async list(dataDir) {
      const { layout, drivers } = await open(dataDir)
      return await knownPrograms(layout, drivers, releases)
    },
    install({ dataDir, hypervisor, ...installation }, fetching) {
      return installProgram(dataLayout(path.resolve(dataDir)), releaseOf(releases, hypervisor), installation, fetching)
    },
    remove({ dataDir, hypervisor, version, force }) {
      return removeProgram(dataLayout(path.resolve(dataDir)), releaseOf(releases, hypervisor), version, force)
    },
  }
}

const settings = {
  name: 'configuration',
  essential: true,
  good: '',
  bad: 'no server starts, and nothing can be said of its hypervisors',
  fix: 'correct what is named',
} as const

interface Opened {
  readonly config: ServerConfig
  readonly layout: DataLayout
  readonly drivers: readonly Hypervisor[]
}

async function open(dataDir: string): Promise<Opened> {
  const config = await loadConfig({ dataDir })
  const layout = dataLayout(config.data_dir)
  return { config, layout, drivers: await makeHostDrivers(layout, silent, config) }
}

function releaseOf(releases: readonly Release[], hypervisor: string): Release {
  const release = releases.find((one) => one.hypervisor === hypervisor)
  if (release !== undefined) return release
  const known = releases.map((one) => one.hypervisor).join(' and ')
  throw new Error(`${hypervisor} is none that can be installed or removed here; ${known} can, others come with the host`)
}
