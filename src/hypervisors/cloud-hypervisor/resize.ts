// Processors, memory and the system disk of a machine that runs, made larger.

import { statSync } from 'node:fs'
import path from 'node:path'
import { HypemanError } from '../../api/errors.ts'
import type { MachineSize, Resize } from '../driver.ts'
import { diskName } from '../raw-disks.ts'
import { VmmError, type VmInfo } from './api.ts'
import { asCloudHypervisor } from './machine.ts'
import { MEMORY_STEP_MIB, systemDisk } from './vm-config.ts'

const MIB = 1024 ** 2

export const resize: Resize = {
  async disk(machine, sizeBytes, signal) {
    const vm = asCloudHypervisor(machine)
    const file = path.join(vm.directory, diskName(await vm.disk()))
    // The VMM would make a longer one shorter.
    if (statSync(file).size < sizeBytes) await vm.vmm.resizeDisk(systemDisk, sizeBytes, signal)
  },
  machine: {
    memoryStepMib: MEMORY_STEP_MIB,
    async size(machine, signal) {
      return sizeOf(await configOf(asCloudHypervisor(machine).vmm.info(signal)))
    },
    async grow(machine, wanted, signal) {
      const { vmm } = asCloudHypervisor(machine)
      const config = await configOf(vmm.info(signal))
      const has = sizeOf(config)
      if (wanted.vcpus > config.cpus.max_vcpus)
        throw new HypemanError(
          'conflict',
          `the machine was started with room for ${config.cpus.max_vcpus} processors; stop it to give it ${wanted.vcpus}`,
        )
      try {
        // Memory first: that it has no room for it, it says only when it is asked.
        if (wanted.memoryMib > has.memoryMib) await vmm.resize({ memory: wanted.memoryMib * MIB }, signal)
        if (wanted.vcpus > has.vcpus) await vmm.resize({ vcpus: wanted.vcpus }, signal)
      } catch (error) {
        if (!(error instanceof VmmError)) throw error
        throw new HypemanError('conflict', `${error.message}; stop the instance to give it more`, { cause: error })
      }
    },
  },
}

async function configOf(asked: Promise<VmInfo | undefined>): Promise<VmInfo['config']> {
  const info = await asked
  if (info === undefined) throw new HypemanError('host_unavailable', 'Cloud Hypervisor has no machine; stop and start the instance')
  return info.config
}

/** The VMM counts what was plugged in as if the machine had booted with it. */
function sizeOf({ cpus, memory }: VmInfo['config']): MachineSize {
  return { vcpus: cpus.boot_vcpus, memoryMib: memory.size / MIB }
}
