// The rate of the host's time-stamp counter, for emulated guests that have no timer to measure it by.

import { readFile } from 'node:fs/promises'

/**
 * In kHz; undefined where /proc/cpuinfo does not tell it. In a virtual machine its `cpu MHz` is the counter's rate, as the kernel
 * found it; on bare metal it is the clock of the moment, which is something else.
 */
export async function hostTscKhz(cpuinfo = '/proc/cpuinfo'): Promise<number | undefined> {
  const text = await readFile(cpuinfo, 'utf8').catch(() => '') // no such file on other systems: then nothing is known
  const flags = /^flags\s*:(.*)$/m.exec(text)?.[1]?.split(' ') ?? []
  const mhz = /^cpu MHz\s*:\s*([\d.]+)$/m.exec(text)?.[1]
  if (mhz === undefined || !flags.includes('hypervisor') || !flags.includes('constant_tsc')) return undefined
  return Math.round(Number(mhz) * 1000)
}
