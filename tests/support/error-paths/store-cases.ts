// Requests for the errors of operations on what instances are made of or keep: images and their pushes, volumes, schedules.

import assert from 'node:assert/strict'
import type { ErrorCode } from '../../../src/api/errors.ts'
import { ask } from './ask.ts'
import {
  archiveOf,
  send,
  onFullDisk,
  onFailingDisk,
  whilePushed,
  whileUnpacked,
  nonsense,
  ofAnotherPlatform,
  tired,
  withRegistry,
  whileScheduled,
  type Case,
} from './circumstances.ts'

export type Cases = Partial<Record<ErrorCode, Case>>

const stream = { headers: { 'content-type': 'application/x-tar' } } as const
const importing = (name: string, archive: string): Case => send('POST', `/images/import?name=${encodeURIComponent(name)}`, archive, stream)
const fromArchive = (query: string, archive: string): Case => send('POST', `/volumes/from-archive?${query}`, archive, stream)

const tag = (target: string): Case => send('POST', '/images/hypeman%2Fbase/tag', { target })
const pull = (name: string): Case => send('POST', '/images', { name })

const pushed = (tag: string): object => ({ image: 'hypeman/base', target: `127.0.0.1:9/nobody/listens:${tag}` })
const push = (change: object): Case => send('POST', '/pushes', { ...pushed('1'), ...change })

export const storeCases: Readonly<Record<string, Cases>> = {
  'PUT /instances/{id}/snapshot-schedule': {
    storage_full: onFullDisk(send('PUT', '/instances/stopped/snapshot-schedule', { interval: '2h', retention: { max_count: 2 } })),
    storage_unsuitable: onFailingDisk(send('PUT', '/instances/stopped/snapshot-schedule', { interval: '2h', retention: { max_count: 2 } })),
  },
  'POST /images': {
    invalid_name: send('POST', '/images', { name: 'No Image' }),
    invalid_platform: send('POST', '/images', { name: 'alpine', platform: 'plan9/vax' }),
    rate_limited: withRegistry(tired, pull),
    platform_not_available: withRegistry(ofAnotherPlatform, pull),
    invalid_archive: withRegistry(nonsense, pull),
    storage_full: onFullDisk(pull('alpine')),
    storage_unsuitable: onFailingDisk(pull('alpine')),
    registry_unavailable: send('POST', '/images', { name: '127.0.0.1:9/no/image:1' }),
  },
  'POST /pushes': {
    invalid_name: push({ image: 'No Image' }),
    invalid_target: push({ target: 'No Target' }),
    not_found: push({ image: 'nowhere:1' }),
    image_not_ready: whileUnpacked(push({ image: 'slow/image:1' })),
    conflict: whilePushed('push.send/upload', pushed('2'), push({ ...pushed('2'), insecure: true })),
    credential_conflict: whilePushed('push.send/upload', pushed('3'), push({ ...pushed('3'), credentials: { username: 'ada' } })),
    busy: whilePushed('push.create/record', pushed('4'), push(pushed('4'))),
    storage_full: onFullDisk(push(pushed('5'))),
    storage_unsuitable: onFailingDisk(push(pushed('6'))),
  },
  'GET /images/{name}': { invalid_name: send('GET', '/images/No%20Image') },
  'DELETE /images/{name}': {
    invalid_name: send('DELETE', '/images/No%20Image'),
    storage_unsuitable: async (world) => {
      const tagged = await tag('other/name:1')(world)
      assert.equal(tagged.status, 201, tagged.text)
      return await onFailingDisk(send('DELETE', '/images/other%2Fname:1'))(world)
    },
  },
  'POST /images/{name}/tag': {
    invalid_name: tag('No Image'),
    storage_full: onFullDisk(tag('other/name:2')),
    storage_unsuitable: onFailingDisk(tag('other/name:2')),
  },
  'POST /volumes': {
    already_exists: send('POST', '/volumes', { name: 'shelf', size_gb: 1 }),
    insufficient_resources: send('POST', '/volumes', { name: 'fresh', size_gb: 2000 }),
    storage_full: onFullDisk(send('POST', '/volumes', { name: 'fresh', size_gb: 1 })),
    storage_unsuitable: onFailingDisk(send('POST', '/volumes', { name: 'fresh', size_gb: 1 })),
  },
  'POST /images/import': {
    invalid_name: importing('No Image', 'x'),
    invalid_archive: importing('a/b:1', 'no archive'),
    storage_full: onFullDisk(importing('a/b:1', 'no archive')),
    storage_unsuitable: onFailingDisk(importing('a/b:1', 'no archive')),
    platform_not_available: async (world) => {
      const body = await archiveOf({ layers: [[{ path: 'file', content: '' }]], architecture: 'arm64' })
      return await ask(world.server, 'POST', '/images/import?name=a%2Fb%3A1', { body })
    },
  },
  'POST /volumes/from-archive': {
    missing_field: fromArchive('name=fresh', 'x'),
    invalid_field: fromArchive('name=fresh&size_gb=much', 'x'),
    invalid_archive: fromArchive('name=fresh&size_gb=1', 'no archive'),
    already_exists: fromArchive('name=shelf&size_gb=1', 'no archive'),
    insufficient_resources: fromArchive('name=fresh&size_gb=2000', 'no archive'),
    storage_full: onFullDisk(fromArchive('name=fresh&size_gb=1', 'no archive')),
    storage_unsuitable: onFailingDisk(fromArchive('name=fresh&size_gb=1', 'no archive')),
  },
  'DELETE /instances/{id}/snapshot-schedule': {
    busy: whileScheduled(send('DELETE', '/instances/stopped/snapshot-schedule')),
    storage_unsuitable: async (world) => {
      const { snapshotSchedule } = world.server.client.instances
      await snapshotSchedule.update('stopped', { interval: '2h', retention: { max_count: 2 } })
      try {
        return await onFailingDisk(send('DELETE', '/instances/stopped/snapshot-schedule'))(world)
      } finally {
        await snapshotSchedule.delete('stopped')
      }
    },
  },
  'DELETE /volumes/{id}': {
    conflict: send('DELETE', '/volumes/held'),
    storage_unsuitable: async (world) => {
      const { id } = await world.server.client.volumes.create({ name: 'brief', size_gb: 1 })
      return await onFailingDisk(send('DELETE', `/volumes/${id}`))(world)
    },
  },
}
