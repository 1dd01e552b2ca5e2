// Which volumes an instance may have: where they are mounted, who else has them, and what they forbid.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { aRecord, someVolumes, testContext } from '../../tests/support/instance-context.ts'
import { HypemanError, isHypemanError } from '../api/errors.ts'
import type { InstanceRecord } from './record.ts'
import { checkMounts, checkSharing, forbidWritableVolumes } from './volumes.ts'

type Volume = InstanceRecord['volumes'][number]
const volume = (volumeId: string, mountPath: string, readOnly = false): Volume => ({ volumeId, mountPath, readOnly, overlay: null })

async function check(wanted: readonly Volume[], held: readonly Volume[] = []): Promise<void> {
  await using world = await testContext()
  await world.add({ name: 'holder', volumes: held })
  checkMounts(wanted)
  for (const volume of wanted) checkSharing(world.context, volume)
}

for (const mountPath of ['/data', '/data/', '/srv/a/b', '/home/me', '/etcetera', '/opt', '/data/../srv'])
  test(`a volume may be mounted on ${mountPath}`, () => check([volume('a', mountPath)]))

for (const mountPath of [
  '/',
  '//',
  '/etc',
  '/etc/',
  '/etc/app',
  '/usr/../etc',
  '/./root',
  '/data/../../proc',
  '/lib64',
  'data',
  './data',
  '',
])
  test(`a volume may not be mounted on ${JSON.stringify(mountPath)}`, () =>
    assert.rejects(check([volume('a', mountPath)]), (error) => {
      assert.ok(isHypemanError(error, 'invalid_request'), String(error))
      assert.ok(error.message.startsWith('volumes: '))
      return true
    }))

test('two volumes may not be mounted on one path, however it is written', async () => {
  const twice = check([volume('a', '/data'), volume('b', '/srv/../data/')])
  await assert.rejects(twice, (error) => isHypemanError(error, 'invalid_request') && /named twice/.test(error.message))
  await check([volume('a', '/data'), volume('b', '/data/inner')])
})

const sharing = [
  { wanted: false, held: false, legal: false },
  { wanted: true, held: false, legal: false },
  { wanted: false, held: true, legal: false },
  { wanted: true, held: true, legal: true },
]
for (const { wanted, held, legal } of sharing) {
  const words = (readOnly: boolean): string => (readOnly ? 'reads' : 'writes to')
  test(`a volume that one instance ${words(held)} ${legal ? 'may' : 'may not'} be attached to another that ${words(wanted)} it`, async () => {
    const checked = check([volume('a', '/data', wanted)], [volume('a', '/elsewhere', held)])
    if (legal) return await checked
    await assert.rejects(checked, (error) => isHypemanError(error, 'conflict') && /attached to the instance holder/.test(error.message))
  })
}

test('a volume that a snapshot reads may be attached to be read, and not to be written to', async () => {
  await using world = await testContext({ volumes: someVolumes({ snapshotsUsing: () => ['snap-1'] }) })
  checkSharing(world.context, volume('a', '/data', true))
  assert.throws(
    () => checkSharing(world.context, volume('a', '/data')),
    (error) => isHypemanError(error, 'conflict') && /snap-1/.test(error.message),
  )
})

test('a volume that is gone is refused before anything else is looked at', async () => {
  const imagePath = (id: string): never => {
    throw new HypemanError('not_found', `there is no volume ${id}; hypeman volume list shows all`)
  }
  await using world = await testContext({ volumes: someVolumes({ imagePath }) })
  assert.throws(
    () => checkSharing(world.context, volume('gone', '/data')),
    (error) => isHypemanError(error, 'not_found'),
  )
})

test('only a volume that is written to forbids snapshots and forks, and is named', () => {
  forbidWritableVolumes({ ...aRecord(), volumes: [volume('a', '/a', true)] }, 'a snapshot')
  assert.throws(
    () => forbidWritableVolumes({ ...aRecord(), volumes: [volume('a', '/a', true), volume('b', '/b')] }, 'a snapshot'),
    (error) => isHypemanError(error, 'not_supported') && /^a snapshot is not possible .* volume b \(\/b\)/.test(error.message),
  )
})
