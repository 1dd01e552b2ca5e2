import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { hostTscKhz } from './tsc.ts'

async function rateOf(text: string): Promise<number | undefined> {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'hypeman-tsc-'))
  try {
    await writeFile(path.join(directory, 'cpuinfo'), text)
    return await hostTscKhz(path.join(directory, 'cpuinfo'))
  } finally {
    await rm(directory, { recursive: true })
  }
}

test('in a virtual machine the processor clock is the counter’s rate', async () => {
  assert.equal(await rateOf('cpu MHz\t\t: 2096.025\nflags\t\t: fpu tsc constant_tsc hypervisor\n'), 2_096_025)
})

test('on bare metal, or where nothing is told, the rate is not known', async () => {
  assert.equal(await rateOf('cpu MHz\t\t: 800.000\nflags\t\t: fpu tsc constant_tsc\n'), undefined)
  assert.equal(await rateOf('flags\t\t: hypervisor constant_tsc\n'), undefined)
  assert.equal(await hostTscKhz('/no/such/file'), undefined)
})
