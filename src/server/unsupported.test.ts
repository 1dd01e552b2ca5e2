import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isHypemanError } from '../api/errors.ts'
import { createInstanceBody } from '../api/schemas/instance-requests.ts'
import { refuseUnsupportedCreate } from './unsupported.ts'

const create = (fields: object): void => refuseUnsupportedCreate(createInstanceBody.parse({ name: 'a', image: 'b', ...fields }))
const refused = (field: string) => (error: unknown) => isHypemanError(error, 'not_supported') && error.message.startsWith(`${field}: `)

test('fields that ask for what can not be done yet are refused by name', () => {
  for (const [field, fields] of [
    ['credentials', { credentials: { KEY: { source: { env: 'KEY' } } } }],
    ['devices', { devices: ['gpu0'] }],
    ['gpu', { gpu: { profile: 'L40S-1Q' } }],
  ] as const)
    assert.throws(() => create(fields), refused(field), field)
})

test('absent, empty and disabled they are fine, and so is what is accepted and not used', () => {
  create({})
  create({
    ...{ disk_io_bps: '', credentials: {}, devices: [], gpu: {}, hotplug_size: '4GB', skip_kernel_headers: true },
    ...{
      auto_standby: { enabled: false, idle_timeout: '5m' },
      health_check: { type: 'none', interval: '1s' },
      restart_policy: { policy: 'never' },
    },
    ...{ snapshot_policy: { compression: { enabled: true } }, network: { bandwidth_download: '', egress: { enabled: false } } },
    volumes: [{ volume_id: 'v', mount_path: '/v', overlay: false }],
  })
  create({ restart_policy: {}, health_check: {}, auto_standby: {}, disk_io_bps: '0' })
})

test('several of them are all named at once', () => {
  assert.throws(
    () => create({ gpu: { profile: 'x' }, devices: ['y'] }),
    (error) => isHypemanError(error) && error.details.length === 2,
  )
})
