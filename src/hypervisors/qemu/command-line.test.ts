import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { MachineSpec, PortMapping } from '../driver.ts'
import { qemuArguments, type QemuLaunch } from './command-line.ts'
import { machineKinds, machineTypesOn } from './machines.ts'

const spec: MachineSpec = {
  instanceId: 'a'.repeat(24),
  directory: '/data/instances/a',
  vcpus: 2,
  memoryMib: 512,
  kernel: '/data/kernels/k/vmlinuz',
  initrd: '/data/kernels/k/initrd.cpio',
  disks: [{ id: 'rootfs', path: '/data/rootfs.erofs', readOnly: true }],
  diskBytesPerSecond: null,
  network: { kind: 'user', mac: '02:00:00:00:00:01', ports: [] },
}
const launch: QemuLaunch = { machineType: 'q35', accelerator: 'tcg', memoryFile: 'memory-0.base', systemLayer: 'disk-1.qcow2' }

/** Values of an option, in order. */
function valuesOf(args: readonly string[], option: string): string[] {
  return args.flatMap((argument, index) => (argument === option ? [args[index + 1] ?? ''] : []))
}

function portsOf(...ports: PortMapping[]): string {
  return valuesOf(qemuArguments({ ...spec, network: { kind: 'user', mac: '02:00:00:00:00:01', ports } }, launch), '-netdev')[0] ?? ''
}

test('a cold machine loads a kernel; one that goes on from device state loads none and stays paused', () => {
  const cold = qemuArguments(spec, launch)
  assert.deepEqual([valuesOf(cold, '-kernel'), valuesOf(cold, '-initrd')], [[spec.kernel], [spec.initrd]])
  assert.ok(!cold.includes('-S') && !cold.includes('-incoming'))
  for (const incoming of ['fd:3', 'defer'] as const) {
    const warm = qemuArguments(spec, { ...launch, incoming })
    assert.deepEqual(valuesOf(warm, '-incoming'), [incoming])
    assert.ok(warm.includes('-S'))
    for (const option of ['-kernel', '-initrd', '-append']) assert.ok(!warm.includes(option), option)
  }
})

test('an emulated microvm, which can not measure its clock on a busy host, is told its frequency', () => {
  const appended = (one: Partial<QemuLaunch>): string => valuesOf(qemuArguments(spec, { ...launch, ...one }), '-append')[0] ?? ''
  const tscKhz = 2_096_025
  assert.match(appended({ machineType: 'microvm', tscKhz }), / tsc_early_khz=2096025( |$)/)
  for (const one of [{ tscKhz }, { machineType: 'microvm' }, { machineType: 'microvm', accelerator: 'kvm', tscKhz }] as const)
    assert.doesNotMatch(appended(one), /tsc_early_khz/)
})

test('a cold guest is told the parts of its system disk, and nothing of them when the disk is one', () => {
  const appended = (one: MachineSpec): string => valuesOf(qemuArguments(one, launch), '-append')[0] ?? ''
  assert.doesNotMatch(appended(spec), /parts/)
  const systemParts = [
    { offsetBytes: 0, sizeBytes: 1024 },
    { offsetBytes: 4096, sizeBytes: 2048 },
  ]
  assert.match(appended({ ...spec, systemParts }), / hypeman\.parts=0\+1024,4096\+2048$/)
})

test('cold and restored machines have the same devices in the same order', () => {
  const devices = (args: readonly string[]): string[] =>
    valuesOf(args, '-device').concat(valuesOf(args, '-machine'), valuesOf(args, '-cpu'))
  for (const machineType of ['q35', 'microvm', 'virt'] as const)
    assert.deepEqual(
      devices(qemuArguments(spec, { ...launch, machineType })),
      devices(qemuArguments(spec, { ...launch, machineType, incoming: 'defer', memoryFile: 'memory-9.base', systemLayer: 'disk-9.qcow2' })),
    )
})

test('guest memory is mapped privately from its file, and the stream carries no configuration', () => {
  const args = qemuArguments(spec, launch)
  assert.ok(valuesOf(args, '-object').includes('memory-backend-file,id=mem,size=512M,mem-path=memory-0.base,share=off'))
  assert.deepEqual(valuesOf(args, '-global'), ['migration.send-configuration=off', 'migration.announce-rounds=0'])
  assert.match(valuesOf(args, '-machine')[0] ?? '', /memory-backend=mem/)
})

test('nothing is made that was not asked for, and the process may start no other', () => {
  const args = qemuArguments(spec, launch)
  for (const option of ['-nodefaults', '-no-user-config', '-no-reboot']) assert.ok(args.includes(option), option)
  assert.deepEqual(valuesOf(args, '-sandbox'), ['on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'])
  assert.ok(!qemuArguments({ ...spec, network: null }, launch).some((argument) => argument.includes('netdev')))
})

test('a comma in a path is part of the path, not the end of an option', () => {
  const [disk] = valuesOf(
    qemuArguments({ ...spec, disks: [{ id: 'rootfs', path: '/data/a,readonly=off,b', readOnly: true }] }, launch),
    '-drive',
  )
  assert.equal(disk, 'if=none,id=rootfs,file=/data/a,,readonly=off,,b,format=raw,readonly=on')
})

test('disks come as image, system disk, volumes, each found by its serial; only what is writable may be written', () => {
  const volumes = [true, false].map((readOnly, index) => ({ id: `vol-${index}`, path: `/v${index}`, readOnly }))
  const args = qemuArguments({ ...spec, disks: [...spec.disks, ...volumes] }, launch)
  assert.deepEqual(
    valuesOf(args, '-device').filter((device) => device.startsWith('virtio-blk')),
    ['rootfs', 'system', 'vol-0', 'vol-1'].map((id) => `virtio-blk-pci,drive=${id},serial=${id}`),
  )
  assert.deepEqual(
    valuesOf(args, '-drive').map((drive) => /readonly=(\w+)/.exec(drive)?.[1]),
    ['on', undefined, 'on', 'off'],
  )
})

test('a limit of disk throughput is one for all disks, cold and restored; without one nothing is said of it', () => {
  const volume = { id: 'vol-0', path: '/v', readOnly: false }
  const limited = { ...spec, disks: [...spec.disks, volume], diskBytesPerSecond: 1_500_000 }
  for (const one of [launch, { ...launch, incoming: 'fd:3' } as const]) {
    const drives = valuesOf(qemuArguments(limited, one), '-drive')
    assert.equal(drives.length, 3)
    for (const drive of drives) assert.match(drive, /,throttling\.bps-total=1500000,throttling\.group=disks$/)
  }
  const [cold, free] = [qemuArguments(limited, launch), qemuArguments({ ...limited, diskBytesPerSecond: null }, launch)]
  assert.deepEqual(
    cold.map((argument) => argument.replace(/,throttling.*$/, '')),
    free,
  )
  assert.ok(!free.some((argument) => argument.includes('throttl')))
})

test('ports are published by protocol, host address and number; an IPv6 address is bracketed', () => {
  assert.equal(
    portsOf(
      { guestPort: 80, hostPort: 8080, protocol: 'tcp', hostAddress: '127.0.0.1' },
      { guestPort: 53, hostPort: 5353, protocol: 'udp', hostAddress: '0.0.0.0' },
      { guestPort: 443, hostPort: 8443, protocol: 'tcp', hostAddress: '::1' },
    ),
    'user,id=net,ipv6=off,hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=udp:0.0.0.0:5353-:53,hostfwd=tcp:[::1]:8443-:443',
  )
})

test('a microvm has virtio-mmio devices, and no more volumes than it has slots', () => {
  const args = qemuArguments(spec, { ...launch, machineType: 'microvm' })
  assert.ok(valuesOf(args, '-device').every((device) => !device.includes('-pci')))
  assert.match(valuesOf(args, '-machine')[0] ?? '', /^microvm,.*acpi=on,rtc=on$/)
  const slots = valuesOf(args, '-device').filter((device) => /^virtio-.*-device/.test(device)).length
  assert.equal(slots + machineKinds.microvm.maxVolumes, 24)
})

test('each processor has machines of its own, and only a PC has what a PC has', () => {
  assert.deepEqual([machineTypesOn('x64'), machineTypesOn('arm64'), machineTypesOn('ppc64')], [['q35', 'microvm'], ['virt'], []])
  const virt = qemuArguments(spec, { ...launch, machineType: 'virt' })
  assert.match(valuesOf(virt, '-machine')[0] ?? '', /^virt,accel=tcg,.*gic-version=3$/)
  assert.match(
    valuesOf(qemuArguments(spec, { ...launch, machineType: 'virt', accelerator: 'kvm' }), '-machine')[0] ?? '',
    /gic-version=host$/,
  )
  assert.match(valuesOf(virt, '-append')[0] ?? '', /^console=ttyAMA0 quiet /)
  assert.doesNotMatch(virt.join(' '), /la57|i8042|tsc|reboot=t|acpi=on/)
  for (const machineType of ['q35', 'microvm'] as const)
    assert.match(valuesOf(qemuArguments(spec, { ...launch, machineType }), '-append')[0] ?? '', /^console=ttyS0 .*i8042\.nopnp/)
})

test('no machine has a device by which its guest gives memory back: QEMU would punch holes into the file that snapshots and forks share', () => {
  for (const machineType of ['q35', 'microvm', 'virt'] as const)
    for (const memoryFile of ['memory-1.base', undefined]) {
      const args = qemuArguments(spec, { ...launch, machineType, memoryFile })
      assert.doesNotMatch(args.join(' '), /balloon|virtio-mem|free-page-reporting/)
    }
})

test('on a network of the host the machine takes a device that is there, and runs no program to make one', () => {
  const arguments_ = qemuArguments({ ...spec, network: { kind: 'tap', mac: '02:00:00:00:00:01', device: 'hm-1' } }, launch)
  assert.deepEqual(valuesOf(arguments_, '-netdev'), ['tap,id=net,ifname=hm-1,script=no,downscript=no,vnet_hdr=off'])
})
