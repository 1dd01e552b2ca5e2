// Takes memory back from a running guest (docs/ballooning.md of Firecracker's): what the guest gives is dropped from the process' own pages, never from the file that they were
// mapped from, so snapshots and forks that share that file are not concerned.

import { z } from 'zod'
import type { Balloon, Machine } from '../driver.ts'
import { FirecrackerMachine } from './machine.ts'

const MIB = 1024 ** 2

const statistics = z.object({ actual_mib: z.int().nonnegative() })

export const balloon: Balloon = {
  async given(machine, signal) {
    const told = await firecracker(machine).ask({ method: 'GET', path: '/balloon/statistics', signal })
    return statistics.parse(told).actual_mib * MIB
  },
  async ask(machine, bytes, signal) {
    await firecracker(machine).ask({ method: 'PATCH', path: '/balloon', body: { amount_mib: Math.floor(bytes / MIB) }, signal })
  },
}

function firecracker(machine: Machine): FirecrackerMachine {
  if (machine instanceof FirecrackerMachine) return machine
  throw new TypeError('the machine is of another driver')
}
