// Records on disk outlive the program that wrote them: a sample of every version of every kind is still read, and a record that changes gets a new
// version, a step that leads there, and a sample. The samples and schemas are never rewritten (scripts/record-schemas.ts adds what is missing).

import assert from 'node:assert/strict'
import { globSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { recordFormats, samplesOf, schemaOf } from '../../scripts/record-schemas.ts'
import { RecordError } from '../../src/files/record-format.ts'
import { recordText } from '../../src/files/record-text.ts'

const root = path.join(import.meta.dirname, '..', '..')

async function readJson(file: string): Promise<Record<string, unknown>> {
  return JSON.parse(await readFile(file, 'utf8')) as Record<string, unknown>
}

test('every kind of record is among those whose samples are kept, and every kept kind is there', async () => {
  const files = globSync('src/**/*.ts', { cwd: root, exclude: ['**/*.test.ts', 'src/files/record-format.ts'] })
  const texts = await Promise.all(files.map((file) => readFile(path.join(root, file), 'utf8')))
  assert.equal(texts.join('').split('defineRecord({').length - 1, recordFormats.length)
  assert.deepEqual(
    (await readdir(path.join(root, 'tests/samples/records'))).toSorted(),
    recordFormats.map((format) => path.basename(samplesOf(format))).toSorted(),
  )
})

for (const format of recordFormats) {
  const { kind, version, steps } = format
  const versions = [...Object.keys(steps).map(Number), version]
  const sample = (at: number): string => path.join(samplesOf(format), `v${at}.json`)

  test(`${kind}: a schema that changes has a new version`, async () => {
    assert.deepEqual(
      schemaOf(format),
      await readJson(path.join(samplesOf(format), `v${version}.schema.json`)),
      `the schema of the ${kind} has changed: raise its version, add the step from version ${version}, and a sample of version ${version + 1}`,
    )
  })

  test(`${kind}: there is a sample of every version, and each becomes the present one`, async () => {
    const kept = (await readdir(samplesOf(format))).filter((name) => /^v\d+\.json$/.test(name))
    assert.deepEqual(kept.toSorted(), versions.map((at) => `v${at}.json`).toSorted())
    for (const at of versions) {
      const file = sample(at)
      assert.equal((await readJson(file))['version'] ?? 0, at)
      const parsed = await format.read(file)
      assert.deepEqual(format.parse(recordText(parsed as object), 'as it is written again'), parsed)
    }
    const present = await readJson(sample(version))
    assert.deepEqual(
      Object.keys(format.schema.parse(await format.read(sample(version))) as object).toSorted(),
      Object.keys(present)
        .filter((key) => key !== 'checksum')
        .toSorted(),
      'nothing of a present record is lost',
    )
  })

  test(`${kind}: one of a newer version is refused, naming file and versions and saying what to do`, async () => {
    const { checksum: _checksum, ...record } = await readJson(sample(version))
    const newer = recordText({ ...record, version: version + 1 })
    assert.throws(
      () => format.parse(newer, '/data/it.json'),
      (error) =>
        error instanceof RecordError &&
        error.newer &&
        error.message ===
          `/data/it.json has version ${version + 1}, and this hypeman knows ${kind}s up to version ${version}: run the version that wrote it, or a newer one`,
    )
  })
}
