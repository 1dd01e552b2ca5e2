import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { isHypemanError } from '../../api/errors.ts'
import { loadDescription } from '../../../tests/vmm-stand-in/description.ts'
import { withoutNulls } from '../../../tests/vmm-stand-in/cloud-hypervisor-config.ts'
import type { MachineSpec } from '../driver.ts'
import { bootConfig, restoreConfig, vmConfig } from './vm-config.ts'

const description = await loadDescription('cloud-hypervisor.yaml', '/api/v1', { onlyKnownFields: true })
const refusal = (config: object): string | undefined => description.refusal('PUT', '/api/v1/vm.create', withoutNulls(config))

const word = fc.stringMatching(/^[a-z0-9]{1,10}$/)
const spec: fc.Arbitrary<MachineSpec> = fc.record({
  instanceId: word,
  directory: word.map((name) => `/data/${name}`),
  vcpus: fc.integer({ min: 1, max: 16 }),
  memoryMib: fc.integer({ min: 64, max: 65_536 }),
  kernel: word.map((name) => `/kernels/${name}`),
  initrd: word.map((name) => `/kernels/${name}.cpio`),
  disks: fc
    .array(fc.record({ path: word.map((name) => `/images/${name}`), readOnly: fc.boolean() }), { maxLength: 4 })
    .map((disks) => disks.map((disk, index) => ({ ...disk, id: index === 0 ? 'rootfs' : `vol-${index - 1}` }))),
  diskBytesPerSecond: fc.option(fc.integer({ min: 1, max: 1e9 })),
  network: fc.option(fc.record({ kind: fc.constant('tap' as const), mac: fc.constant('02:00:00:00:00:01'), device: word })),
})

test('every machine is configured as the official description wants it, with no field that it does not know', () => {
  fc.assert(
    fc.property(spec, (one) => {
      const config = bootConfig(one, { kernel: '/vmlinux', systemDisk: 'disk-1.raw' })
      assert.equal(refusal(config), undefined)
      assert.deepEqual(vmConfig.parse(JSON.parse(JSON.stringify(config))), config)
      assert.deepEqual(
        config.disks.map(({ id, path, readonly: readOnly }) => [id, path, readOnly]),
        [
          ...one.disks.slice(0, 1).map((disk) => [disk.id, disk.path, disk.readOnly]),
          ['system', 'disk-1.raw', false],
          ...one.disks.slice(1).map((disk) => [disk.id, disk.path, disk.readOnly]),
        ],
      )
    }),
  )
})

test('a machine that may grow has addresses for it and no memory, each piece with room to be aligned; one that may not has none', () => {
  const [one] = fc.sample(spec, 1)
  assert.ok(one)
  const launch = { kernel: '/k', systemDisk: 'disk-1.raw' }
  const of = (memoryMib: number, largest: MachineSpec['largest']): unknown[] => {
    const { cpus, memory } = bootConfig({ ...one, vcpus: 2, memoryMib, ...(largest === undefined ? {} : { largest }) }, launch)
    return [
      cpus.boot_vcpus,
      cpus.max_vcpus,
      memory.size / 1024 ** 2,
      memory.hotplug_size === undefined ? 0 : (memory.hotplug_size ?? 0) / 1024 ** 2,
    ]
  }
  assert.deepEqual(of(256, undefined), [2, 2, 256, 0])
  assert.deepEqual(of(256, { vcpus: 1, memoryMib: 256 }), [2, 2, 256, 0])
  assert.deepEqual(of(256, { vcpus: 4, memoryMib: 300 }), [2, process.arch === 'x64' ? 4 : 2, 256, 128 + 1024])
  assert.deepEqual(of(192, { vcpus: 4, memoryMib: 448 }), [2, process.arch === 'x64' ? 4 : 2, 192, 256 + 1024])
})

test('what goes on from a snapshot has all paths, the network and the limits of the machine that goes on, and otherwise what was saved', () => {
  fc.assert(
    fc.property(spec, spec, fc.boolean(), (source, other, hasNulls) => {
      // As far as a guest can tell, the same machine.
      const goesOn: MachineSpec = {
        ...other,
        vcpus: source.vcpus,
        memoryMib: source.memoryMib,
        disks: source.disks.map((disk, index) => ({ ...disk, path: other.disks[index]?.path ?? '/images/elsewhere' })),
        network: source.network === null ? null : { kind: 'tap', mac: '02:00:00:00:00:02', device: 'other' },
      }
      const written = bootConfig(source, { kernel: '/old', systemDisk: 'disk-1.raw' })
      const off = { mode: 'Off', file: null, iobase: 233 }
      const nulls = hasNulls
        ? { fs: null, pmem: [], tpm: null, debug_console: off, numa: null, ...(source.network === null ? { net: null } : {}) }
        : {}
      const saved = vmConfig.parse({ ...written, ...nulls, pvpanic: true, balloon: { size: 4096, deflate_on_oom: true } })
      const config = restoreConfig(saved, goesOn, { kernel: '/new', systemDisk: 'disk-2.raw' })
      const fresh = bootConfig(goesOn, { kernel: '/new', systemDisk: 'disk-2.raw' })
      assert.equal(refusal(config), undefined)
      assert.deepEqual(
        config.disks.map(({ path, rate_limit_group: group }) => [path, group]),
        fresh.disks.map(({ path, rate_limit_group: group }) => [path, group ?? null]),
      )
      assert.deepEqual(config.rate_limit_groups ?? null, fresh.rate_limit_groups ?? null)
      assert.deepEqual(config.net?.map(({ tap, mac }) => [tap, mac]) ?? [], fresh.net?.map(({ tap, mac }) => [tap, mac]) ?? [])
      assert.deepEqual([config.serial, config.vsock, config.payload], [fresh.serial, fresh.vsock, fresh.payload])
      assert.deepEqual([config['pvpanic'], config.balloon?.size], [true, 4096])
    }),
  )
})

test('a saved machine that names anything else of the host’s is refused, and what its own devices are is this instance’s word', () => {
  const [one] = fc.sample(spec, 1)
  assert.ok(one)
  const source: MachineSpec = { ...one, network: { kind: 'tap', mac: '02:00:00:00:00:01', device: 'tap0' } }
  const launch = { kernel: '/k', systemDisk: 'disk-1.raw' }
  const written = bootConfig(source, launch)
  const restored = (change: object): unknown => restoreConfig(vmConfig.parse({ ...written, ...change }), source, launch)
  const each = (device: object) => ({ disks: written.disks.map((disk) => ({ ...disk, ...device })) })
  for (const change of [
    { fs: [{ tag: 'all', socket: '/run/fs' }] },
    { pmem: [{ file: '/etc/shadow' }] },
    { devices: [{ path: '/sys/bus/pci/devices/0000:00:01.0' }] },
    { user_devices: [{ socket: '/run/user' }] },
    { vdpa: [{ path: '/dev/vhost-vdpa-0' }] },
    { tpm: { socket: '/run/tpm' } },
    { generic_vhost_user: [{ socket: '/run/any' }] },
    { debug_console: { mode: 'File', file: '/etc/motd', iobase: 233 } },
    { memory: { ...written.memory, zones: [{ id: 'mem', size: 1, file: '/etc/shadow' }] } },
    { payload: { ...written.payload, firmware: '/etc/shadow' } },
    { net: [{ ...written.net?.[0], vhost_user: true, vhost_socket: '/run/net' }] },
    { serial: { ...written.serial, socket: '/run/serial' } },
    each({ vhost_socket: '/run/disk' }),
    each({ vhost_user: true }),
    each({ backing_files: true }),
  ])
    assert.throws(
      () => restored(change),
      (error) => isHypemanError(error, 'conflict') && /which no machine here is given/.test(error.message),
      JSON.stringify(change),
    )
  for (const change of [each({ readonly: false }), each({ readonly: true }), each({ image_type: 'Qcow2' }), each({ image_type: null })])
    assert.deepEqual((restored(change) as typeof written).disks, restoreConfig(written, source, launch).disks)
  assert.equal((restored({ rng: { src: '/etc/shadow' } }) as typeof written).rng?.src, '/dev/urandom')
})

test('a network that is the VMM’s own is refused, since it has none', () => {
  const [one] = fc.sample(spec, 1)
  assert.ok(one)
  const user = { ...one, network: { kind: 'user', mac: '02:00:00:00:00:01', ports: [] } } as const
  assert.throws(
    () => bootConfig(user, { kernel: '/k', systemDisk: 'd' }),
    (error) => isHypemanError(error, 'not_supported'),
  )
})
