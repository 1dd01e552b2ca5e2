// What goes on from a saved machine has its devices and nothing but its own paths: the framework restores nothing else.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { isHypemanError } from '../../api/errors.ts'
import type { MachineSpec } from '../driver.ts'
import { configurationOf, continued } from './configuration.ts'
import { configuration } from './protocol.ts'
import { socketPath } from '../../platform/socket-path.ts'

const path = fc.stringMatching(/^\/[a-z0-9/]{1,40}$/)
const disk = (id: string): fc.Arbitrary<MachineSpec['disks'][number]> => fc.record({ id: fc.constant(id), path, readOnly: fc.boolean() })
const spec: fc.Arbitrary<MachineSpec> = fc.record({
  instanceId: fc.stringMatching(/^[a-z0-9]{24}$/),
  directory: path,
  vcpus: fc.integer({ min: 1, max: 16 }),
  memoryMib: fc.integer({ min: 64, max: 65_536 }),
  kernel: path,
  initrd: path,
  disks: fc
    .integer({ min: 0, max: 20 })
    .chain((count) => fc.tuple(disk('rootfs'), ...Array.from({ length: count }, (_, index) => disk(`vol-${index}`)))),
  systemParts: fc.array(fc.record({ offsetBytes: fc.nat(), sizeBytes: fc.nat() }), { maxLength: 3 }),
  diskBytesPerSecond: fc.constant(null),
  network: fc.constant(null),
})
const number = fc.nat({ max: 1_000 })

test('every machine has a configuration of the protocol: the image first, the system disk second, then volumes, and its parts on the command line', () => {
  fc.assert(
    fc.property(spec, number, (machine, system) => {
      const made = configurationOf(machine, system)
      assert.deepEqual(configuration.parse(made), made)
      assert.deepEqual(
        made.disks.map(({ id }) => id),
        ['rootfs', 'system', ...machine.disks.slice(1).map(({ id }) => id)],
      )
      assert.deepEqual(made.disks[1], { id: 'system', path: `disk-${system}.raw`, readOnly: false })
      const parts = (machine.systemParts ?? []).map(({ offsetBytes, sizeBytes }) => `${offsetBytes}+${sizeBytes}`).join(',')
      assert.equal(made.commandLine.includes('hypeman.parts='), parts !== '')
      if (parts !== '') assert.ok(made.commandLine.split(' ').includes(`hypeman.parts=${parts}`))
    }),
  )
})

test('a fork has the devices of its source and the paths of its own', () => {
  fc.assert(
    fc.property(spec, spec, number, number, (source, other, sourceDisk, forkDisk) => {
      const saved = configurationOf(source, sourceDisk)
      const fork: MachineSpec = {
        ...source,
        ...{ instanceId: other.instanceId, directory: other.directory, kernel: other.kernel, initrd: other.initrd },
        disks: source.disks.map((one, index) => ({ ...one, path: other.disks[index]?.path ?? one.path })),
      }
      const made = continued(saved, fork, forkDisk)
      const ofDevices = ({ kernel: _kernel, initrd: _initrd, disks, ...devices }: typeof made): object => ({
        ...devices,
        disks: disks.map(({ id, readOnly }) => [id, readOnly]),
      })
      assert.deepEqual(ofDevices(made), ofDevices(saved))
      assert.deepEqual([made.kernel, made.initrd], [fork.kernel, fork.initrd])
      assert.deepEqual(
        made.disks.map((one) => one.path),
        configurationOf(fork, forkDisk).disks.map((one) => one.path),
      )
    }),
  )
})

test('a machine that differs in more than paths is refused, with what differs', () => {
  const machine: MachineSpec = {
    ...{ instanceId: 'i', directory: '/i', vcpus: 1, memoryMib: 128, kernel: '/k', initrd: '/r', diskBytesPerSecond: null, network: null },
    disks: [
      { id: 'rootfs', path: '/rootfs', readOnly: true },
      { id: 'vol-0', path: '/v', readOnly: true },
    ],
  }
  const saved = configurationOf(machine, 1)
  const refused = (other: Partial<MachineSpec>, words: RegExp): void => {
    assert.throws(
      () => continued(saved, { ...machine, ...other }, 2),
      (error) => isHypemanError(error, 'conflict') && words.test(error.message),
    )
  }
  refused({ vcpus: 2 }, /saved with 1 vCPUs instead of 2/)
  refused({ memoryMib: 256 }, /saved with 134217728 bytes of memory instead of 268435456/)
  refused({ disks: machine.disks.slice(0, 1) }, /saved with the disks rootfs ro, system rw, vol-0 ro instead of rootfs ro, system rw/)
  refused({ disks: machine.disks.map((one) => ({ ...one, readOnly: one.id !== 'vol-0' })) }, /vol-0 ro instead of .* vol-0 rw/)
  assert.throws(() => continued({ ...saved, network: { mac: '02:00:00:00:00:01' } }, machine, 2), /saved with a network/)
})

test('the path of a socket fits the system that it is made on', () => {
  assert.equal(socketPath('/d', 'vz.sock', 'darwin'), '/d/vz.sock')
  for (const [platform, longest] of [
    ['darwin', 103],
    ['linux', 107],
  ] as const) {
    const directory = `/${'d'.repeat(longest - '/vz.sock'.length - 1)}`
    assert.equal(Buffer.byteLength(socketPath(directory, 'vz.sock', platform)), longest)
    assert.throws(
      () => socketPath(`${directory}d`, 'vz.sock', platform),
      (error) => isHypemanError(error, 'storage_unsuitable'),
    )
  }
})
