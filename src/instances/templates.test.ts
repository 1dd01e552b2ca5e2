// What is kept of templates, and what is dropped.

import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { pino } from 'pino'
import { dataLayout, type DataLayout } from '../files/layout.ts'
import { makeDataDirectories, stageRecord } from '../files/stage.ts'
import { keyOf, type TemplateKind, type TemplateRecord } from './template-record.ts'
import { Templates } from './templates.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'templates-'))
after(() => rm(root, { recursive: true }))
const log = pino({ level: 'silent' })
const DAY_MS = 24 * 3600 * 1000
let count = 0

async function freshLayout(): Promise<DataLayout> {
  const layout = dataLayout(path.join(root, String((count += 1))))
  await makeDataDirectories(layout)
  return layout
}

function kindWith(vcpus: number): TemplateKind {
  const stamp = { hypervisor: 'qemu', version: '7.2', machineType: 'q35', accelerator: 'tcg' } as const
  const sizes = { memoryBytes: 2 ** 28, hotplugBytes: 0, overlayBytes: 2 ** 30 }
  return { hypervisor: 'qemu', imageDigest: 'sha256:0', kernelId: 'kernel', vcpus, ...sizes, hasNetwork: true, stamp }
}

/** Puts a template there that was used so long ago. */
async function keep(layout: DataLayout, vcpus: number, usedAgoMs = 0): Promise<string> {
  const kind = kindWith(vcpus)
  const directory = layout.template(keyOf(kind))
  await mkdir(directory)
  const record: TemplateRecord = { version: 2, createdAt: new Date().toISOString(), kind, seals: [] }
  await stageRecord(path.join(directory, 'template.json'), record)
  const used = new Date(Date.now() - usedAgoMs)
  await utimes(directory, used, used)
  return keyOf(kind)
}

test('kinds that differ in anything have other keys', () => {
  const kind = kindWith(1)
  const changes: Partial<TemplateKind>[] = [
    { imageDigest: 'sha256:1' },
    { kernelId: 'other' },
    { vcpus: 2 },
    { memoryBytes: 2 ** 29 },
    { hotplugBytes: 2 ** 27 },
    { overlayBytes: 2 ** 31 },
    { hasNetwork: false },
    { hypervisor: 'qemu-microvm' },
    { stamp: { ...kind.stamp, version: '8.0' } },
    { stamp: { ...kind.stamp, accelerator: 'kvm' } },
  ]
  assert.equal(new Set([kind, ...changes.map((change) => ({ ...kind, ...change }))].map(keyOf)).size, changes.length + 1)
})

test('what is there is found after a start; what is damaged, foreign, of no use or unused for a week is removed', async () => {
  const layout = await freshLayout()
  const [good, stale, old] = [await keep(layout, 1), await keep(layout, 2), await keep(layout, 3, 8 * DAY_MS)]
  const damaged = await keep(layout, 4)
  await writeFile(path.join(layout.template(damaged), 'template.json'), '{')
  await mkdir(path.join(layout.templates, 'foreign'))
  const templates = new Templates(layout, log)
  await templates.load(({ kind }) => Promise.resolve(kind.vcpus !== 2))
  assert.deepEqual(await readdir(layout.templates), [good])
  assert.equal(templates.find(good)?.kind.vcpus, 1)
  for (const key of [stale, old, damaged]) assert.equal(templates.find(key), undefined)
  assert.deepEqual(await readdir(layout.trash), [])
})

test('of more than sixteen those go that were used longest ago; using one keeps it', async () => {
  const layout = await freshLayout()
  const keys: string[] = []
  for (let vcpus = 1; vcpus <= 17; vcpus += 1) keys.push(await keep(layout, vcpus, vcpus * 60_000))
  const templates = new Templates(layout, log)
  await templates.load(() => Promise.resolve(true))
  assert.equal(templates.find(keys[16] ?? ''), undefined)
  await templates.touch(keys[15] ?? '')
  const again = new Templates(layout, log)
  await keep(layout, 18)
  await again.load(() => Promise.resolve(true))
  assert.notEqual(again.find(keys[15] ?? ''), undefined)
  assert.equal(again.find(keys[14] ?? ''), undefined)
  assert.equal((await readdir(layout.templates)).length, 16)
})

test('a template is made once, after those before it, and not again when that failed or it was dropped', async () => {
  const layout = await freshLayout()
  const templates = new Templates(layout, log)
  const made: string[] = []
  const make = (key: string, failure?: Error) => (): Promise<void> => {
    made.push(key)
    return failure === undefined ? Promise.resolve() : Promise.reject(failure)
  }
  templates.begin('a', make('a', new Error('no memory')))
  templates.begin('a', make('a'))
  templates.begin('b', make('b'))
  await templates.idle()
  templates.begin('a', make('a'))
  await templates.drop('c', 'it did not work')
  templates.begin('c', make('c'))
  await templates.idle()
  assert.deepEqual(made, ['a', 'b'])
})

test('one whose image is gone is removed, and made again when the image is back', async () => {
  const layout = await freshLayout()
  const key = await keep(layout, 1)
  const templates = new Templates(layout, log)
  await templates.load(() => Promise.resolve(true))
  await templates.dropStale(() => true)
  assert.deepEqual([templates.find(key), await readdir(layout.templates)], [undefined, []])
  let made = 0
  templates.begin(key, () => Promise.resolve(void (made += 1)))
  await templates.idle()
  assert.equal(made, 1)
})
