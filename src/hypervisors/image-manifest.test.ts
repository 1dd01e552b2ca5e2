import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { z } from 'zod'
import { isHypemanError } from '../api/errors.ts'
import { defineRecord, RecordError } from '../files/record-format.ts'
import { imageManifest, manifestFile } from './image-manifest.ts'

const root = mkdtempSync(path.join(os.tmpdir(), 'manifest-'))
after(() => rmSync(root, { recursive: true }))
const format = defineRecord({ kind: 'test', version: 1, schema: z.object({ version: z.literal(1), disk: z.int() }) })
const manifest = imageManifest(format)
const directory = (): string => mkdtempSync(path.join(root, 'd-'))

test('an image is there from when its manifest is written until it is removed', async () => {
  for (const write of [manifest.stage, manifest.commit]) {
    const at = directory()
    assert.deepEqual([manifest.isThere(at), await manifest.read(at), await manifest.readWhole(at)], [false, undefined, undefined])
    await assert.rejects(manifest.demand(at), (error) => isHypemanError(error, 'invalid_state'))
    await write(at, { version: 1, disk: 3 })
    for (const read of [manifest.read, manifest.readWhole, manifest.demand]) assert.deepEqual(await read(at), { version: 1, disk: 3 })
    assert.equal(manifest.isThere(at), true)
    for (const _time of [1, 2]) await manifest.remove(at)
    assert.equal(manifest.isThere(at), false)
  }
})

for (const [what, text, code] of [
  ['damaged', '{"version": 1', 'corrupt_snapshot'],
  ['empty', '', 'corrupt_snapshot'],
  ['a newer version’s', '{"version": 2}', 'incompatible_version'],
] as const)
  test(`a manifest that is ${what} is there, can not be used, and names nothing`, async () => {
    const at = directory()
    await writeFile(path.join(at, manifestFile), text)
    assert.equal(manifest.isThere(at), true)
    for (const use of [manifest.read, manifest.demand]) await assert.rejects(use(at), (error) => isHypemanError(error, code))
    assert.equal(await manifest.readWhole(at), undefined)
  })

test('a manifest that can not be read just now is never taken for none, nor for a damaged one', async () => {
  const failing = (code: string) => imageManifest({ ...format, read: (file) => Promise.reject(unreadable(file, code)) })
  for (const use of ['read', 'readWhole', 'demand'] as const) {
    await assert.rejects(failing('EMFILE')[use](directory()), { code: 'EMFILE' })
    await assert.rejects(failing('EIO')[use](directory()), (error) => isHypemanError(error, 'storage_unsuitable'))
  }
})

/** As a record's reader tells what the system says. */
function unreadable(file: string, code: string): RecordError {
  return new RecordError(`${file} can't be read`, { cause: Object.assign(new Error(code), { code, syscall: 'open' }) })
}
