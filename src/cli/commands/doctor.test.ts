// What `hypeman doctor` prints and how it exits, on the host that runs the tests.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { stripVTControlCharacters } from 'node:util'
import { z } from 'zod'
import { formatProbes } from './doctor.ts'

const report = z.object({
  ok: z.boolean(),
  probes: z.array(
    z.object({ name: z.string(), ok: z.boolean(), essential: z.boolean(), value: z.string().min(1), means: z.string().min(1) }),
  ),
})

test('doctor --json tells every fact, exits 0 only if nothing essential is missing, and leaves nothing in the data directory', async () => {
  await using dataDir = await temporaryDirectory()
  const { code, stdout } = await doctor('--json', '--data-dir', dataDir.path)
  const { ok, probes } = report.parse(JSON.parse(stdout))
  assert.equal(
    ok,
    probes.every((probe) => probe.ok || !probe.essential),
  )
  assert.equal(code, ok ? 0 : 1)
  for (const name of ['KVM', 'userfaultfd', 'reflink', 'tap devices', 'hypervisor qemu', 'hypervisor qemu-microvm', 'guest parts']) {
    assert.ok(
      probes.some((probe) => probe.name === name),
      name,
    )
  }
  assert.deepEqual(await readdir(dataDir.path), [])
})

test('doctor exits 1 and names what is missing when sockets would not fit below the data directory', async () => {
  const { code, stdout } = await doctor('--data-dir', `/${'long-'.repeat(30)}`)
  assert.equal(code, 1)
  assert.match(stdout, /Essential and missing:.*socket paths/)
})

test('what is missing is shown with its meaning and its repair, what is there with its meaning in one line', () => {
  const text = stripVTControlCharacters(
    formatProbes([
      { name: 'umoci', ok: false, essential: true, value: 'not found on PATH', means: 'no image can be pulled', fix: 'npm run setup' },
      { name: 'reflink', ok: false, essential: false, value: 'not kept', means: 'copies are slower' },
      { name: 'skopeo', ok: true, essential: true, value: '1.9.3', means: 'fetches images' },
    ]),
  )
  assert.equal(
    text,
    [
      '✖ umoci    not found on PATH',
      '           no image can be pulled',
      '           fix: npm run setup',
      '! reflink  not kept',
      '           copies are slower',
      '✔ skopeo   1.9.3: fetches images',
      '',
      'Essential and missing: umoci.',
      '',
    ].join('\n'),
  )
})

const main = path.join(import.meta.dirname, '../../main.ts')

function doctor(...args: string[]): Promise<{ code: number; stdout: string }> {
  const { promise, resolve } = Promise.withResolvers<{ code: number; stdout: string }>()
  execFile(process.execPath, [main, 'doctor', ...args], (error, stdout) => {
    resolve({ code: typeof error?.code === 'number' ? error.code : 0, stdout })
  })
  return promise
}

async function temporaryDirectory(): Promise<AsyncDisposable & { readonly path: string }> {
  const directory = await mkdtemp(path.join(tmpdir(), 'doctor-'))
  return { path: directory, [Symbol.asyncDispose]: () => rm(directory, { recursive: true }) }
}
