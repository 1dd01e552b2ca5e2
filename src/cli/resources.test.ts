// hypeman resources: tables for people, everything for programs.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { startFakeServer } from '../../tests/support/fake-server.ts'
import { hypeman } from '../../tests/support/fake-terminal.ts'

const GIB = 1024 ** 3

const status = (type: string, capacity: number, allocated: number, source?: string) => ({
  ...{ type, capacity, effective_limit: capacity * 2, allocated, available: capacity * 2 - allocated, oversub_ratio: 2 },
  ...(source === undefined ? {} : { source }),
})
const resources = {
  cpu: status('cpu', 2, 1, 'detected'),
  memory: status('memory', 16 * GIB, GIB, 'detected'),
  disk: status('disk', 100 * GIB, 10 * GIB, 'configured'),
  network: status('network', 0, 0),
  allocations: [{ instance_id: 'a', instance_name: 'web', cpu: 1, memory_bytes: GIB, disk_bytes: 10 * GIB }],
  disk_breakdown: { images_bytes: 0, oci_cache_bytes: 0, volumes_bytes: 0, overlays_bytes: 10 * GIB },
}

function rows(text: string): string[][] {
  return text
    .trimEnd()
    .split('\n')
    .map((line) => line.trim().split(/ {3,}/))
}

test('what there is and who has it are tables, with processors as numbers and the rest as sizes', async () => {
  await using server = await startFakeServer()
  server.on('GET /resources', { json: resources })
  const { code, stdout, stderr } = await hypeman(server.url, ['resources'])
  assert.equal(code, 0, stderr)
  assert.deepEqual(rows(stdout), [
    ['RESOURCE', 'CAPACITY', 'TIMES', 'LIMIT', 'ALLOCATED', 'AVAILABLE'],
    ['cpu', '2', '2', '4', '1', '3'],
    ['memory', '16.0 GB', '2', '32.0 GB', '1.0 GB', '31.0 GB'],
    ['disk', '100.0 GB', '2', '200.0 GB', '10.0 GB', '190.0 GB'],
    ['network', 'unknown', '2', '0 B/s', '0 B/s', '0 B/s'],
    [''],
    ['INSTANCE', 'VCPUS', 'MEMORY', 'DISK'],
    ['web', '1', '1.0 GB', '10.0 GB'],
  ])
})

test('without instances there is one table, and the throughput of disks is told where it is known', async () => {
  await using server = await startFakeServer()
  server.on('GET /resources', { json: { ...resources, disk_io: status('disk_io', 1024 ** 2, 0, 'configured'), allocations: [] } })
  const { stdout } = await hypeman(server.url, ['resource', '--format', 'table'])
  assert.deepEqual(rows(stdout).at(-1), ['disk_io', '1.0 MB/s', '2', '2.0 MB/s', '0 B/s', '2.0 MB/s'])
})

test('as JSON it is the answer of the server', async () => {
  await using server = await startFakeServer()
  server.on('GET /resources', { json: resources })
  const { stdout } = await hypeman(server.url, ['resources', '--format', 'json'])
  assert.deepEqual(JSON.parse(stdout), resources)
})

test('memory is asked back as the options say, and who gives what is a table', async () => {
  await using server = await startFakeServer()
  const action = (name: string, change: object): object => ({
    ...{ instance_id: name, instance_name: name, hypervisor: 'firecracker', assigned_memory_bytes: 2 * GIB, protected_floor_bytes: GIB },
    ...{ previous_target_guest_memory_bytes: 2 * GIB, planned_target_guest_memory_bytes: 1.5 * GIB, target_guest_memory_bytes: 1.5 * GIB },
    ...{ applied_reclaim_bytes: GIB / 2, status: 'applied' },
    ...change,
  })
  server.on('POST /resources/memory/reclaim', {
    json: {
      ...{ requested_reclaim_bytes: GIB, planned_reclaim_bytes: GIB / 2, applied_reclaim_bytes: GIB / 2, host_available_bytes: GIB },
      ...{ host_pressure_state: 'healthy', hold_until: '2026-11-29T12:00:00.000Z' },
      actions: [
        action('web', {}),
        action('db', { planned_target_guest_memory_bytes: 2 * GIB, applied_reclaim_bytes: 0, status: 'unsupported', error: 'no balloon' }),
      ],
    },
  })
  const words = ['resources', 'reclaim-memory', '--reclaim-bytes', '1GB', '--hold-for', '10m', '--reason', 'a build']
  const { code, stdout, stderr } = await hypeman(server.url, words)
  assert.equal(code, 0, stderr)
  assert.deepEqual(server.requests.at(-1)?.body, { reclaim_bytes: GIB, hold_for: '10m', reason: 'a build' })
  assert.deepEqual(rows(stdout), [
    ['INSTANCE', 'HV', 'MEMORY', 'FLOOR', 'ASKED FOR', 'GIVEN', 'STATUS'],
    ['web', 'firecracker', '2.0 GB', '1.0 GB', '512.0 MB', '512.0 MB', 'applied'],
    ['db', 'firecracker', '2.0 GB', '1.0 GB', '0 B', '0 B', 'unsupported: no balloon'],
  ])
  assert.match(stderr, /512\.0 MB of 512\.0 MB given, held until 2026-11-29T12:00/)
  assert.equal((await hypeman(server.url, ['resources', 'reclaim-memory'])).code, 2)
  assert.equal((await hypeman(server.url, ['resources', 'reclaim-memory', '--reclaim-bytes', 'much'])).code, 2)
})
