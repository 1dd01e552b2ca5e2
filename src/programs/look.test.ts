// What is said of the hypervisors of a host: which program new machines start on, and what helps where none can run.

import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { createFirecrackerDriver } from '../hypervisors/firecracker/index.ts'
import type { Jailing } from '../hypervisors/firecracker/jailer.ts'
import { firecrackerRelease } from '../hypervisors/firecracker/release.ts'
import type { Hypervisor } from '../hypervisors/driver.ts'
import { dataLayout } from '../files/layout.ts'
import { knownPrograms, probeHypervisors } from './look.ts'

const home = await mkdtemp(path.join(tmpdir(), 'look-'))
after(() => rm(home, { recursive: true }))
const layout = dataLayout(path.join(home, 'data'))
const releases = [firecrackerRelease]

async function program(file: string, version: string): Promise<string> {
  await mkdir(path.dirname(file), { recursive: true })
  await writeFile(file, `#!/bin/sh\necho "Firecracker v${version}"\n`, { mode: 0o755 })
  return file
}

function driverOf(command: string, whyNoKvm?: string, jailing?: Jailing): Hypervisor {
  return createFirecrackerDriver({
    layout,
    command,
    kernelImage: (kernel) => Promise.resolve(kernel),
    whyNoKvm: () => Promise.resolve(whyNoKvm),
    jailing,
  })
}

const installed = await program(path.join(layout.hypervisor('firecracker'), '1.10.1', 'firecracker'), '1.10.1')
await writeFile(path.join(path.dirname(installed), 'jailer'), '#!/bin/sh\necho "Jailer v1.10.1"\n', { mode: 0o755 })
const elsewhere = await program(path.join(home, 'elsewhere', 'firecracker'), '1.10.1')

test('new machines start on the installed program, or on one that a setting names, also where that is of the same version', async () => {
  const known = { hypervisor: 'firecracker', version: '1.10.1' } as const
  for (const command of ['firecracker-that-is-nowhere', installed])
    assert.deepEqual(await knownPrograms(layout, [driverOf(command)], releases), [{ ...known, path: installed, usual: true }])
  assert.deepEqual(await knownPrograms(layout, [driverOf(elsewhere)], releases), [
    { ...known, path: null, usual: true },
    { ...known, path: installed, usual: false },
  ])
})

test('to install a program is advised where none runs, and not where something else is missing', async () => {
  const probed = async (driver: Hypervisor) => (await probeHypervisors(layout, [driver], releases, 'firecracker'))[0]
  const withoutProgram = await probed(driverOf('/none/firecracker'))
  assert.match(withoutProgram?.fix ?? '', /^hypeman hypervisor install firecracker@/)
  const withoutKvm = await probed(driverOf(installed, 'KVM can not be used here'))
  assert.deepEqual([withoutKvm?.ok, withoutKvm?.value, withoutKvm?.fix], [false, 'KVM can not be used here', undefined])
})

test(
  'whether machines run in jails is said of a hypervisor, and why they can not where they have to',
  { skip: process.getuid?.() === 0 ? false : 'only root can make jails' },
  async () => {
    const probed = async (driver: Hypervisor) => (await probeHypervisors(layout, [driver], releases, 'firecracker'))[0]
    assert.equal((await probed(driverOf(installed, undefined, 'on')))?.value, '1.10.1, jailed')
    assert.equal((await probed(driverOf(installed, undefined, 'off')))?.value, '1.10.1')
    const without = await probed(driverOf(elsewhere, undefined, 'on'))
    assert.equal(without?.ok, false)
    assert.match(without.value, /there is no program jailer beside .*elsewhere/)
  },
)
