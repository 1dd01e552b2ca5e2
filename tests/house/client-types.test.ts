// Our schemas and the official client, operation by operation: what we answer is what it expects, and what it can send is what we take. That is checked by the
// compiler in tests/support/wire/operations.ts; here, that the table is about every operation and about the routes as they are, and that the check refuses.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { z } from 'zod'
import { health } from '../../src/api/schemas/capabilities.ts'
import type { instance } from '../../src/api/schemas/instance.ts'
import type { createDeviceBody } from '../../src/api/schemas/device.ts'
import { createVolumeBody, volume } from '../../src/api/schemas/volume.ts'
import { compareWithClient } from '../support/wire/compare.ts'
import type { Fits } from '../support/wire/fits.ts'
import { operations } from '../support/wire/operations.ts'

type At = { at: string }

const withoutTags = createVolumeBody.omit({ tags: true })
const withPlainNetwork = z.object({ name: z.string(), network: z.object({ enabled: z.boolean() }).partial().optional() })

/** What the compiler says is wrong with rows that do not fit; a check that took one of them would make this line an error. */
const refused: [
  Fits<'health.check', At & { answer: typeof volume }>['doesNotFit'],
  Fits<'volumes.delete', At & { answer: typeof volume }>['doesNotFit'],
  Fits<'volumes.create', At & { answer: typeof volume; body: typeof createDeviceBody }>['doesNotFit'],
  Fits<'volumes.create', At & { answer: typeof volume }>['doesNotFit'],
  Fits<'volumes.createFromArchive', At & { answer: typeof volume; query: typeof createDeviceBody }>['doesNotFit'],
  Fits<'volumes.shrink', At & { answer: typeof volume }>['doesNotFit'],
  Fits<'volumes.create', At & { answer: typeof volume; body: typeof withoutTags }>['doesNotFit'],
  Extract<Fits<'instances.create', At & { answer: typeof instance; body: typeof withPlainNetwork }>['theirs'], '.network.egress'>,
] = ['answer', 'answer', 'body', 'request', 'query', 'name', 'dropped', '.network.egress']

test('every operation of the official client fits our schemas, and our routes are what the table says', async () => {
  const { wanted, good, complaints } = await compareWithClient()
  assert.deepEqual(complaints, [])
  assert.equal(wanted, 63)
  assert.equal(good, wanted)
})

test('a row that is missing, unknown, twice there or about another schema is found', async () => {
  const { 'health.check': dropped, ...others } = operations
  assert.equal(dropped?.at, 'GET /health')
  const { good, complaints } = await compareWithClient({
    ...others,
    'volumes.get': { at: 'GET /volumes/:id', answer: health },
    'volumes.list': { at: 'GET /volumes', answer: volume },
    'volumes.shrink': { at: 'POST /volumes/:id/shrink', answer: volume },
    'devices.copy': { at: 'GET /devices', answer: volume },
    'pushes.get': { at: 'GET /pushes/:id', answer: 'only errors' },
    'builds.list': { at: 'GET /builds', answer: 'only errors' },
  })
  assert.deepEqual(complaints, [
    'no row has GET /health',
    'the client has no POST /volumes/{}/shrink',
    'volumes.list: the answer of GET /volumes is described otherwise than in the table',
    'volumes.list: the query of GET /volumes is described otherwise than in the table',
    'volumes.get: the answer of GET /volumes/:id is described otherwise than in the table',
    'devices.copy: another row has GET /devices',
    'builds.list is described: give its schemas in the table',
    'pushes.get is described: give its schemas in the table',
    'volumes.shrink: our description has no POST /volumes/:id/shrink',
  ])
  assert.equal(good, 57)
  assert.equal(refused.length, 8)
})
