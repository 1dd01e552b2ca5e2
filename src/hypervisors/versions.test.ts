import assert from 'node:assert/strict'
import { test } from 'node:test'
import { HypemanError, isHypemanError } from '../api/errors.ts'
import type { Binary } from '../platform/binaries.ts'
import { versionsOf } from './versions.ts'

const kind = { hypervisor: 'firecracker', machineType: 'a', accelerator: 'kvm' } as const

/** Programs of these versions, the usual one first. */
function programs(...versions: readonly string[]) {
  const all: readonly Binary[] = versions.map((version) => ({ path: `/${version}`, version }))
  const state = { forgotten: 0 }
  const usual = async (): Promise<Binary> => {
    if (all[0] === undefined) throw new HypemanError('host_unavailable', 'install it')
    return all[0]
  }
  const of = async (version: string): Promise<Binary | undefined> => all.find((one) => one.version === version)
  return { usual, of, forget: () => void (state.forgotten += 1), state }
}

test('the stamp is that of the usual program, or of the version that is asked for where it is here', async () => {
  const { stamp } = versionsOf(programs('2.0', '1.0'), kind)
  assert.deepEqual(await stamp(), { ...kind, version: '2.0' })
  assert.deepEqual(await stamp('1.0'), { ...kind, version: '1.0' })
  assert.deepEqual(await stamp('0.9'), { ...kind, version: '2.0' })
})

test('memory goes on by the program of just its version, and by none other', async () => {
  const { writerOf } = versionsOf(programs('2.0', '1.0'), kind)
  for (const version of ['1.0', '2.0']) assert.equal((await writerOf({ ...kind, version })).path, `/${version}`)
  for (const other of [{ version: '0.9' }, { machineType: 'b' }, { accelerator: 'tcg' }, { hypervisor: 'qemu' as const }])
    await assert.rejects(
      writerOf({ ...kind, version: '2.0', ...other }),
      (error) => isHypemanError(error, 'incompatible_version') && /here is firecracker 2\.0 .*version that wrote it$/.test(error.message),
    )
  await assert.rejects(versionsOf(programs(), kind).writerOf({ ...kind, version: '1.0' }), { code: 'host_unavailable' })
})

test('memory goes on by the program of its version, also where the one that new machines start on can not be run', async () => {
  const { usual: _usual, ...others } = programs('2.0', '1.0')
  const broken = (): Promise<Binary> => Promise.reject(new HypemanError('host_unavailable', 'install version 2.0 again'))
  const { writerOf, programFor, stamp } = versionsOf({ ...others, usual: broken }, kind)
  assert.equal((await writerOf({ ...kind, version: '1.0' })).path, '/1.0')
  assert.equal((await programFor('1.0')).path, '/1.0')
  assert.deepEqual(await stamp('1.0'), { ...kind, version: '1.0' })
  for (const version of [undefined, '0.9']) await assert.rejects(programFor(version), { message: 'install version 2.0 again' })
  await assert.rejects(writerOf({ ...kind, version: '0.9' }), { code: 'host_unavailable', message: 'install version 2.0 again' })
})

test('a program that says another version than before is asked again', async () => {
  const { state, ...binaries } = programs('1.0')
  const { onSameVersion } = versionsOf(binaries, kind)
  assert.equal(await onSameVersion(async () => 7), 7)
  await assert.rejects(onSameVersion(() => Promise.reject(new HypemanError('conflict', 'x'))))
  assert.equal(state.forgotten, 0)
  await assert.rejects(onSameVersion(() => Promise.reject(new HypemanError('incompatible_version', 'x'))))
  assert.equal(state.forgotten, 1)
})
