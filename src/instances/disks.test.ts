// Disks from one hypervisor to another: every pair of them, what is in the disk, the room that it takes, and what a failure leaves.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { closeSync, openSync, readSync, statSync, writeSync } from 'node:fs'
import { mkdir, readdir, truncate, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { after, test } from 'node:test'
import fc from 'fast-check'
import { isHypemanError } from '../api/errors.ts'
import type { Hypervisor, HypervisorName } from '../hypervisors/driver.ts'
import { createCloudHypervisorDriver } from '../hypervisors/cloud-hypervisor/index.ts'
import { createFirecrackerDriver } from '../hypervisors/firecracker/index.ts'
import { createQemuDriver } from '../hypervisors/qemu/index.ts'
import { createVzDriver } from '../hypervisors/vz/index.ts'
import type { FlowContext } from '../platform/flow.ts'
import { aDriver, aHostNetwork, aRecord, testContext } from '../../tests/support/instance-context.ts'
import { fillFromPayload } from './disks.ts'
import { demandFit } from './fit.ts'

const drivers = new Map<HypervisorName, Hypervisor>()
const world = await testContext({ drivers })
after(() => world[Symbol.asyncDispose]())
const { layout } = world.context
const ofQemu = { accelerator: 'tcg', layout } as const
// No process of theirs is started.
const command = '/nowhere'
const ofHost = { layout, command, kernelImage: (kernel: string) => Promise.resolve(kernel), whyNoKvm: () => Promise.resolve(undefined) }
for (const driver of [
  createQemuDriver({ ...ofQemu, machineType: 'q35' }),
  createQemuDriver({ ...ofQemu, machineType: 'microvm' }),
  createFirecrackerDriver(ofHost),
  createCloudHypervisorDriver({ ...ofHost, whyNotOnDemand: undefined }),
  createVzDriver({ layout, command }),
])
  drivers.set(driver.name, driver)
const names = [...drivers.keys()]
const pairs = names.flatMap((from) => names.map((to) => [from, to] as const))

const PAGE = 4096
const DISK = 4 * 1024 ** 2

let made = 0
async function freshDirectory(): Promise<string> {
  const directory = path.join(layout.staging, `test-${(made += 1)}`)
  await mkdir(directory)
  return directory
}

function driverNamed(name: HypervisorName): Hypervisor {
  return drivers.get(name) ?? assert.fail(name)
}

function flowWith(steps: string[], fail?: string): FlowContext {
  return {
    flow: 'test',
    signal: new AbortController().signal,
    onStep: ({ step }) => void steps.push(step),
    faults: {
      before: () => undefined,
      after: (id) => {
        if (id === `test/${fail}`) throw new Error('broken on purpose')
      },
    },
  }
}

/** A payload of a hypervisor's whose disk holds some pages, the rest holes. */
async function payloadOf(name: HypervisorName, pages: ReadonlyMap<number, number>): Promise<string> {
  const [stopped, payload] = [await freshDirectory(), await freshDirectory()]
  const raw = path.join(stopped, 'raw.tmp')
  await writeFile(raw, '')
  await truncate(raw, DISK)
  const fd = openSync(raw, 'r+')
  for (const [page, byte] of pages) writeSync(fd, Buffer.alloc(PAGE, byte), 0, PAGE, page * PAGE)
  closeSync(fd)
  await driverNamed(name).importDisk(stopped, raw)
  await driverNamed(name).share(stopped, payload, false)
  return payload
}

/** What a disk holds in a page: the byte that fills it. */
async function contentOf(name: HypervisorName, directory: string): Promise<Map<number, number>> {
  const file = path.join(await freshDirectory(), 'raw')
  await driverNamed(name).exportDisk(directory, file, new AbortController().signal)
  assert.equal(statSync(file).size, DISK)
  const content = new Map<number, number>()
  const fd = openSync(file, 'r')
  const piece = Buffer.alloc(PAGE)
  for (let page = 0; page < DISK / PAGE; page += 1) {
    readSync(fd, piece, 0, PAGE, page * PAGE)
    const [byte = 0] = piece
    assert.ok(piece.equals(Buffer.alloc(PAGE, byte)), 'a page is whole')
    if (byte !== 0) content.set(page, byte)
  }
  closeSync(fd)
  return content
}

/** Bytes that the files of a directory take. */
async function roomOf(directory: string): Promise<number> {
  const files = await readdir(directory)
  return files.reduce((sum, name) => sum + statSync(path.join(directory, name)).blocks * 512, 0)
}

for (const [from, to] of pairs)
  test(`what is in a disk of ${from} is in that of ${to} afterwards, and its holes stay holes`, async () => {
    const pages = fc.uniqueArray(fc.tuple(fc.nat(DISK / PAGE - 1), fc.integer({ min: 1, max: 255 })), {
      selector: ([page]) => page,
      maxLength: 12,
    })
    await fc.assert(
      fc.asyncProperty(pages, async (list) => {
        const content = new Map(list)
        const payload = await payloadOf(from, content)
        const directory = await freshDirectory()
        const steps: string[] = []
        await fillFromPayload(world.context, flowWith(steps), { payload, hypervisor: from, withMemory: false }, to, directory)
        const isSame = driverNamed(from).diskFormat === driverNamed(to).diskFormat
        assert.deepEqual(steps, isSame ? ['materialise'] : ['export-disk', 'import-disk'])
        assert.deepEqual(sorted(await contentOf(to, directory)), sorted(content))
        assert.deepEqual(sorted(await contentOf(from, payload)), sorted(content), 'the payload stays as it was')
        assert.ok((await roomOf(directory)) <= (content.size + 1) * 64 * 1024 + 512 * 1024, 'no more room than the data needs')
        assert.deepEqual(
          (await readdir(directory)).filter((name) => name.endsWith('.tmp')),
          [],
        )
      }),
      { numRuns: 4 },
    )
  })

test('what a guest wrote over frozen layers goes to another hypervisor as it is seen from the top', async () => {
  const payload = await payloadOf('qemu', new Map([[3, 7]]))
  const instance = await freshDirectory()
  await driverNamed('qemu').materialise(payload, instance, false)
  execFileSync(
    'qemu-io',
    ['-f', 'qcow2', '-c', `write -q -P 9 ${3 * PAGE} ${PAGE}`, '-c', `write -q -P 5 ${8 * PAGE} ${PAGE}`, 'disk-1.qcow2'],
    {
      cwd: instance,
    },
  )
  const directory = await freshDirectory()
  await fillFromPayload(world.context, flowWith([]), { payload: instance, hypervisor: 'qemu', withMemory: false }, 'firecracker', directory)
  assert.deepEqual(sorted(await contentOf('firecracker', directory)), [
    [3, 9],
    [8, 5],
  ])
})

for (const broken of ['export-disk', 'import-disk'])
  test(`a conversion that fails at ${broken} leaves the payload as it was`, async () => {
    const content = new Map([[1, 1]])
    const payload = await payloadOf('qemu', content)
    const before = await readdir(payload)
    const source = { payload, hypervisor: 'qemu', withMemory: false } as const
    await assert.rejects(fillFromPayload(world.context, flowWith([], broken), source, 'firecracker', await freshDirectory()), /on purpose/)
    assert.deepEqual(await readdir(payload), before)
    assert.deepEqual(sorted(await contentOf('qemu', payload)), sorted(content))
  })

test('memory asks for the program that wrote it, and a boot for the one that new machines start on', async () => {
  const unavailable = async (version?: string): Promise<string | undefined> => (version === '1.0' ? undefined : 'install version 2.0 again')
  const demand = (memoryOf?: string) => demandFit({ hostNetwork: aHostNetwork() }, aDriver('vz', { unavailable }), aRecord(), memoryOf)
  await demand('1.0')
  for (const other of [undefined, '2.0']) await assert.rejects(demand(other), /vz can't run here: install version 2\.0 again/)
})

test('what a hypervisor can not run is refused by name: its absence, volumes, a disk limit, a network', async () => {
  const record = aRecord()
  const volume = { volumeId: 'v', mountPath: '/v', readOnly: true, overlay: null }
  const refusalOf = async (parts: Partial<Hypervisor>, change: Partial<typeof record> = {}): Promise<string> => {
    const error: unknown = await demandFit({ hostNetwork: aHostNetwork() }, aDriver('vz', parts), { ...record, ...change }).then(
      () => 'none',
      (reason: unknown) => reason,
    )
    return isHypemanError(error) ? `${error.code} ${error.message}` : String(error)
  }
  assert.equal(await refusalOf({}), 'none')
  assert.match(
    await refusalOf({ unavailable: () => Promise.resolve('it needs macOS; use another') }),
    /^host_unavailable vz can't run here: it needs macOS/,
  )
  assert.match(await refusalOf({ maxVolumes: 0 }, { volumes: [volume] }), /^not_supported vz takes at most 0 volumes/)
  assert.match(await refusalOf({}, { diskBytesPerSecond: 2 ** 20 }), /^not_supported disk_io_bps: vz/)
  assert.equal(await refusalOf({ features: ['disk-io-limit'] }, { diskBytesPerSecond: 2 ** 20 }), 'none')
  assert.match(await refusalOf({ networks: [] }), /^not_supported network: vz has none/)
  assert.equal(await refusalOf({ networks: [] }, { network: null }), 'none')
  assert.equal(await refusalOf({ networks: ['tap'] }), 'none')
})

function sorted(content: ReadonlyMap<number, number>): (readonly [number, number])[] {
  return [...content].toSorted(([one], [other]) => one - other)
}
