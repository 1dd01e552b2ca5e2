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
