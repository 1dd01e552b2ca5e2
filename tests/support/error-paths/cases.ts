// For each operation, a request for each error that it names. What names a thing of its own (an instance, a snapshot, …) is in lookups.ts.

import assert from 'node:assert/strict'
import { standIn } from '../stand-in-hypervisor/server.ts'
import { ask } from './ask.ts'
import {
  send,
  sendAsAnother,
  onFullDisk,
  onFullHost,
  onFailingDisk,
  whenItsVmmEndsAfter,
  during,
  whileHeld,
  withTakenPort,
  published,
  whileUnpacked,
  nonsense,
  ofAnotherPlatform,
  tired,
  withRegistry,
  whileStreaming,
  type Case,
} from './circumstances.ts'
import { storeCases, type Cases } from './store-cases.ts'
import { damaged, namesake, older, type ErrorWorld } from './world.ts'

const create = (change: object): Case => send('POST', '/instances', { ...standIn, name: 'fresh', ...change })
const shot = ({ shot: id }: ErrorWorld): string => id
const forkShot = (change: object = {}): Case => send('POST', (world) => `/snapshots/${shot(world)}/fork`, { name: 'fresh', ...change })
const restoreCold = (change: object = {}): Case => send('POST', ({ cold }) => `/instances/stopped/snapshots/${cold}/restore`, change)
const restoreDream = send('POST', ({ asleep }) => `/instances/asleep/snapshots/${asleep}/restore`, { target_state: 'Running' })

const attachShelf = (change: object): Case => send('POST', '/instances/stopped/volumes/shelf', { mount_path: '/x', ...change })

/** On an instance of its own, which runs. */
const withFresh =
  (act: Case, change: object = {}): Case =>
  async (world) => {
    await world.server.client.instances.create({ ...standIn, name: 'fresh', ...change })
    await world.server.client.instances.wait('fresh', { state: 'Running', timeout: '1m' })
    return await act(world)
  }

export const cases: Readonly<Record<string, Cases>> = {
  ...storeCases,
  'POST /instances': {
    image_not_ready: whileUnpacked(create({ image: 'slow/image:1' })),
    invalid_name: create({ name: '../x' }),
    invalid_size: create({ size: 'much' }),
    invalid_overlay_size: create({ overlay_size: 'much' }),
    invalid_ttl: create({ ttl: 'long' }),
    invalid_expires_at: create({ expires_at: '2001-01-01T00:00:00Z' }),
    invalid_platform: create({ platform: 'plan9/vax' }),
    invalid_restart_policy: create({ restart_policy: { policy: 'always', backoff: 'soon' } }),
    invalid_health_check: create({ health_check: { type: 'http' } }),
    invalid_auto_standby: create({ auto_standby: { enabled: true } }),
    invalid_snapshot_policy: create({ snapshot_policy: { compression: { enabled: true, level: 20 } } }),
    invalid_hotplug_size: create({ hotplug_size: 'much' }),
    invalid_disk_io_bps: create({ disk_io_bps: '1KB/s' }),
    invalid_bandwidth_download: create({ network: { bandwidth_download: 'much' } }),
    invalid_bandwidth_upload: create({ network: { bandwidth_upload: 'much' } }),
    not_found: create({ volumes: [{ volume_id: 'nowhere', mount_path: '/x' }] }),
    ambiguous: create({ volumes: [{ volume_id: namesake, mount_path: '/x' }] }),
    name_conflict: create({ name: 'stopped' }),
    conflict: create({ volumes: [{ volume_id: 'held', mount_path: '/x' }] }),
    port_in_use: withTakenPort((world, port) => create(published(port))(world)),
    not_supported: create({ gpu: { profile: 'L40S-1Q' } }),
    insufficient_resources: onFullHost(create({})),
    storage_full: onFullDisk(create({})),
    storage_unsuitable: onFailingDisk(create({})),
    rate_limited: withRegistry(tired, (image) => create({ image })),
    platform_not_available: withRegistry(ofAnotherPlatform, (image) => create({ image })),
    invalid_archive: withRegistry(nonsense, (image) => create({ image })),
    registry_unavailable: create({ image: '127.0.0.1:9/no/image:1' }),
  },
  'POST /resources/memory/reclaim': {
    busy: async (world) => {
      const { client } = world.server
      await client.instances.create({ ...standIn, name: 'fresh', size: '512MB' })
      await client.instances.wait('fresh', { state: 'Running', timeout: '1m' })
      const reclaim = (bytes: number): Case => send('POST', '/resources/memory/reclaim', { reclaim_bytes: bytes })
      return during(world, 'instance.reclaim/ask', reclaim(64 * 1024 ** 2), reclaim(0))
    },
  },
  'PATCH /instances/{id}': {
    invalid_ttl: send('PATCH', '/instances/stopped', { ttl: 'long' }),
    invalid_expires_at: send('PATCH', '/instances/stopped', { expires_at: '2001-01-01T00:00:00Z' }),
    invalid_restart_policy: send('PATCH', '/instances/stopped', { restart_policy: { policy: 'always', backoff: 'soon' } }),
    invalid_health_check: send('PATCH', '/instances/stopped', { health_check: { type: 'http' } }),
    busy: whileHeld(send('PATCH', '/instances/stopped', { ttl: '1h' })),
    invalid_auto_standby: send('PATCH', '/instances/stopped', { auto_standby: { enabled: true } }),
    forbidden: sendAsAnother('PATCH', '/instances/runs', { secret_files: { 'tls.key': 'y' } }),
    storage_full: onFullDisk(send('PATCH', '/instances/stopped', { ttl: '1h' })),
    storage_unsuitable: onFailingDisk(send('PATCH', '/instances/stopped', { ttl: '1h' })),
    invalid_size: send('PATCH', '/instances/stopped', { size: 'much' }),
    invalid_overlay_size: send('PATCH', '/instances/stopped', { overlay_size: '1MB' }),
    invalid_state: send('PATCH', '/instances/asleep', { vcpus: 2 }),
    insufficient_resources: send('PATCH', '/instances/stopped', { overlay_size: '60GB' }),
    not_supported: withFresh(send('PATCH', '/instances/fresh', { vcpus: 2 }), { hypervisor: 'qemu-microvm' }),
    conflict: withFresh(send('PATCH', '/instances/fresh', { vcpus: 5 })),
    guest_unreachable: send('PATCH', '/instances/deaf', { overlay_size: '32MB' }),
    instance_expired: (world) =>
      during(world, 'instance.delete/remove', create({ name: 'brief', ttl: '1ms' }), send('PATCH', '/instances/brief', { ttl: '1h' })),
  },
  'DELETE /instances/{id}': {
    busy: whileHeld(send('DELETE', '/instances/stopped')),
    storage_unsuitable: withFresh(onFailingDisk(send('DELETE', '/instances/fresh'))),
  },
  'POST /instances/{id}/start': {
    invalid_state: send('POST', '/instances/runs/start', {}),
    busy: whileHeld(send('POST', '/instances/stopped/start', {})),
    insufficient_resources: onFullHost(send('POST', '/instances/stopped/start', {})),
    storage_full: onFullDisk(send('POST', '/instances/stopped/start', {})),
    storage_unsuitable: onFailingDisk(send('POST', '/instances/stopped/start', {})),
    port_in_use: withTakenPort(send('POST', '/instances/ported/start', {}), async ({ server: { client } }, port) => {
      await client.instances.create({ ...standIn, name: 'ported', ...published(port) })
      await client.instances.wait('ported', { state: 'Running', timeout: '1m' })
      await client.instances.stop('ported')
    }),
  },
  'POST /instances/{id}/stop': {
    invalid_state: send('POST', '/instances/stopped/stop'),
    busy: whileHeld(send('POST', '/instances/stopped/stop')),
    storage_full: withFresh(onFullDisk(send('POST', '/instances/fresh/stop'))),
    storage_unsuitable: withFresh(onFailingDisk(send('POST', '/instances/fresh/stop'))),
  },
  'POST /instances/{id}/standby': {
    invalid_state: send('POST', '/instances/stopped/standby', {}),
    busy: whileHeld(send('POST', '/instances/stopped/standby', {})),
    guest_unreachable: send('POST', '/instances/deaf/standby', {}),
    storage_full: onFullDisk(send('POST', '/instances/runs/standby', {})),
    storage_unsuitable: onFailingDisk(send('POST', '/instances/runs/standby', {})),
    invalid_snapshot_compression: send('POST', '/instances/runs/standby', { compression: { enabled: true, algorithm: 'lz4', level: 10 } }),
    invalid_compression_delay: send('POST', '/instances/runs/standby', { compression_delay: 'soon' }),
  },
  'POST /instances/{id}/auto-standby/hold': { instance_in_standby: send('POST', '/instances/asleep/auto-standby/hold') },
  'POST /instances/{id}/restore': {
    invalid_state: send('POST', '/instances/runs/restore'),
    busy: whileHeld(send('POST', '/instances/stopped/restore')),
    corrupt_snapshot: send('POST', `/instances/${damaged}/restore`),
    incompatible_version: send('POST', `/instances/${older}/restore`),
    insufficient_resources: onFullHost(send('POST', '/instances/asleep/restore')),
    guest_unreachable: whenItsVmmEndsAfter('instance.restore/resume', send('POST', '/instances/asleep/restore')),
    storage_full: onFullDisk(send('POST', '/instances/asleep/restore')),
    storage_unsuitable: onFailingDisk(send('POST', '/instances/asleep/restore')),
    port_in_use: withTakenPort(
      async (world) => {
        try {
          return await ask(world.server, 'POST', '/instances/dreams/restore')
        } finally {
          await world.server.client.instances.delete('dreams')
        }
      },
      async ({ server: { client } }, port) => {
        await client.instances.create({ ...standIn, name: 'dreams', ...published(port) })
        await client.instances.wait('dreams', { state: 'Running', timeout: '1m' })
        await client.instances.standby('dreams')
      },
    ),
  },
  'POST /instances/{id}/fork': {
    invalid_name: send('POST', '/instances/stopped/fork', { name: '../x' }),
    name_conflict: send('POST', '/instances/stopped/fork', { name: 'runs' }),
    invalid_state: send('POST', '/instances/runs/fork', { name: 'fresh' }),
    busy: whileHeld(send('POST', '/instances/stopped/fork', { name: 'fresh' })),
    corrupt_snapshot: send('POST', `/instances/${damaged}/fork`, { name: 'fresh' }),
    incompatible_version: send('POST', `/instances/${older}/fork`, { name: 'fresh', target_state: 'Running' }),
    insufficient_resources: onFullHost(send('POST', '/instances/runs/fork', { name: 'fresh', from_running: true })),
    guest_unreachable: send('POST', '/instances/deaf/fork', { name: 'fresh', from_running: true }),
    storage_full: onFullDisk(send('POST', '/instances/stopped/fork', { name: 'fresh' })),
    storage_unsuitable: onFailingDisk(send('POST', '/instances/stopped/fork', { name: 'fresh' })),
    forbidden: sendAsAnother('POST', '/instances/runs/fork', { name: 'fresh', from_running: true }),
    // With that variable the agent of a stand-in is as those of older versions: it takes none with a fork's identity.
    not_supported: send('POST', '/instances/runs/fork', { name: 'fresh', from_running: true, env: { OLD_AGENT: '1' } }),
  },
  'POST /instances/{id}/volumes/{volumeId}': {
    invalid_overlay_size: attachShelf({ readonly: true, overlay: true, overlay_size: 'much' }),
    invalid_state: send('POST', '/instances/runs/volumes/shelf', { mount_path: '/x' }),
    busy: whileHeld(attachShelf({})),
    insufficient_resources: attachShelf({ readonly: true, overlay: true, overlay_size: '60GB' }),
    storage_full: onFullDisk(attachShelf({})),
    storage_unsuitable: onFailingDisk(attachShelf({})),
  },
  'DELETE /instances/{id}/volumes/{volumeId}': {
    invalid_state: send('DELETE', '/instances/runs/volumes/shelf'),
    busy: whileHeld(send('DELETE', '/instances/stopped/volumes/held')),
    storage_full: onFullDisk(send('DELETE', '/instances/stopped/volumes/held')),
    storage_unsuitable: onFailingDisk(send('DELETE', '/instances/stopped/volumes/held')),
  },
  'GET /instances/{id}/wait': {
    invalid_timeout: send('GET', '/instances/runs/wait?state=Stopped&timeout=long'),
  },
  'GET /instances/{id}/stat': {
    invalid_state: send('GET', '/instances/stopped/stat?path=/'),
    guest_unreachable: send('GET', '/instances/deaf/stat?path=/'),
  },
  'GET /instances/{id}/logs': {
    rate_limited: whileStreaming(send('GET', '/instances/runs/logs')),
    log_not_found: async (world) => {
      const { client } = world.server
      await client.instances.fork('stopped', { name: 'silent' })
      try {
        return await ask(world.server, 'GET', '/instances/silent/logs')
      } finally {
        await client.instances.delete('silent')
      }
    },
  },
  'GET /instances/{id}/events': { rate_limited: whileStreaming(send('GET', '/instances/runs/events')) },
  'GET /images/events': { rate_limited: whileStreaming(send('GET', '/images/events')) },
  'GET /instances/{id}/exec': {
    rate_limited: whileStreaming(send('GET', '/instances/runs/exec')),
    guest_unreachable: send('GET', '/instances/deaf/exec'),
    invalid_state: send('GET', '/instances/stopped/exec'),
  },
  'GET /instances/{id}/cp': {
    rate_limited: whileStreaming(send('GET', '/instances/runs/cp')),
    guest_unreachable: send('GET', '/instances/deaf/cp'),
    invalid_state: send('GET', '/instances/stopped/cp'),
  },
  'POST /instances/{id}/snapshots': {
    invalid_name: send('POST', '/instances/stopped/snapshots', { kind: 'Stopped', name: '../x' }),
    invalid_snapshot_compression: send('POST', '/instances/stopped/snapshots', {
      ...{ kind: 'Standby', compression: { enabled: true, level: 20 } },
    }),
    conflict: send('POST', '/instances/stopped/snapshots', { kind: 'Standby' }),
    busy: whileHeld(send('POST', '/instances/stopped/snapshots', { kind: 'Stopped' })),
    corrupt_snapshot: send('POST', `/instances/${damaged}/snapshots`, { kind: 'Standby' }),
    guest_unreachable: send('POST', '/instances/deaf/snapshots', { kind: 'Standby' }),
    storage_full: onFullDisk(send('POST', '/instances/stopped/snapshots', { kind: 'Stopped' })),
    storage_unsuitable: onFailingDisk(send('POST', '/instances/stopped/snapshots', { kind: 'Stopped' })),
  },
  'POST /instances/{id}/snapshots/{snapshotId}/restore': {
    invalid_state: send('POST', ({ shot }) => `/instances/runs/snapshots/${shot}/restore`, {}),
    busy: whileHeld(restoreCold()),
    corrupt_snapshot: send('POST', `/instances/asleep/snapshots/${damaged}/restore`, {}),
    incompatible_version: send('POST', `/instances/asleep/snapshots/${older}/restore`, {}),
    port_in_use: withTakenPort(
      async (world) => {
        const [{ id } = assert.fail('there is no snapshot')] = (await world.server.client.snapshots.list()).filter(
          ({ name }) => name === 'of-ported',
        )
        return await ask(world.server, 'POST', `/instances/bound/snapshots/${id}/restore`, { body: { target_state: 'Running' } })
      },
      async ({ server: { client } }, port) => {
        await client.instances.create({ ...standIn, name: 'bound', ...published(port) })
        await client.instances.wait('bound', { state: 'Running', timeout: '1m' })
        await client.instances.stop('bound')
        await client.instances.snapshots.create('bound', { kind: 'Stopped', name: 'of-ported' })
      },
    ),
    insufficient_resources: onFullHost(restoreDream),
    guest_unreachable: whenItsVmmEndsAfter('snapshot.restore/resume', restoreDream),
    storage_full: onFullDisk(restoreCold()),
    storage_unsuitable: onFailingDisk(restoreCold()),
    not_supported: restoreCold({ target_hypervisor: 'firecracker' }),
  },
  'DELETE /snapshots/{snapshotId}': {
    busy: async (world) => {
      try {
        return await during(
          world,
          'instance.fork/stage',
          forkShot(),
          send('DELETE', (here) => `/snapshots/${shot(here)}`),
        )
      } finally {
        await world.server.client.instances.delete('fresh')
      }
    },
    storage_unsuitable: async (world) => {
      const { id } = await world.server.client.instances.snapshots.create('stopped', { kind: 'Stopped', name: 'brief' })
      return await onFailingDisk(send('DELETE', `/snapshots/${id}`))(world)
    },
  },
  'POST /snapshots/{snapshotId}/fork': {
    invalid_name: forkShot({ name: '../x' }),
    name_conflict: forkShot({ name: 'runs' }),
    busy: async (world) => {
      const { id } = await world.server.client.instances.snapshots.create('stopped', { kind: 'Stopped', name: 'victim' })
      return await during(
        world,
        'snapshot.delete/remove',
        send('DELETE', `/snapshots/${id}`),
        send('POST', `/snapshots/${id}/fork`, { name: 'fresh' }),
      )
    },
    corrupt_snapshot: send('POST', `/snapshots/${damaged}/fork`, { name: 'fresh' }),
    incompatible_version: send('POST', `/snapshots/${older}/fork`, { name: 'fresh' }),
    insufficient_resources: onFullHost(forkShot()),
    guest_unreachable: whenItsVmmEndsAfter('instance.fork/resume', forkShot()),
    storage_full: onFullDisk(forkShot()),
    storage_unsuitable: onFailingDisk(forkShot()),
    forbidden: sendAsAnother('POST', (world) => `/snapshots/${shot(world)}/fork`, { name: 'fresh' }),
    not_supported: send('POST', (world) => `/snapshots/${world.cold}/fork`, { name: 'fresh', target_hypervisor: 'firecracker' }),
  },
}
