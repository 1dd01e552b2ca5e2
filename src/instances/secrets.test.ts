// Who has which secret variables and files: those who gave them, and forks of others only where that was said; and what became of them in a record.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { isHypemanError, type ErrorCode } from '../api/errors.ts'
import { createSealer } from '../platform/sealing.ts'
import { LONGEST_SECRET_FILE, MOST_SECRET_FILE_BYTES, MOST_SECRET_FILES } from '../api/secret-files.ts'
import { changedEnvironment, fileNamesOf, inheritedSecrets, openSecrets, type Environment, type SecretBlock } from './secrets.ts'

const sealer = createSealer(['the key of tests'])
const empty: Environment = { env: {}, secrets: [] }

function refused(code: ErrorCode, words: RegExp): (error: unknown) => boolean {
  return (error) => isHypemanError(error, code) && words.test(error.message)
}

function given(by: string, secretEnv: Readonly<Record<string, string>>, inherit = false, before = empty): Environment {
  return changedEnvironment(sealer, before, { secretEnv, inherit }, by)
}

const source = (secrets: readonly SecretBlock[]) => ({ name: 'web', secrets })
const name = fc.stringMatching(/^[A-Z][A-Z_]{0,9}$/)
const value = fc.string({ minLength: 8 })

test('what was given comes back, and no value is anywhere in what is recorded', () => {
  fc.assert(
    fc.property(
      fc.dictionary(name, value, { minKeys: 1 }),
      fc.dictionary(name, value),
      fc.string({ minLength: 1 }),
      (values, contents, by) => {
        const { secrets } = changedEnvironment(sealer, empty, { secretEnv: values, secretFiles: contents }, by)
        assert.deepEqual(openSecrets(sealer, secrets), { env: { ...values }, files: { ...contents } })
        const { sealed, ...shown } = secrets[0] ?? assert.fail('there is a block')
        const files = Object.keys(contents)
          .toSorted()
          .map((file) => ({ name: file, bytes: Buffer.byteLength(contents[file] ?? '') }))
        assert.deepEqual(shown, { owner: by, inherit: false, names: Object.keys(values).toSorted(), files })
        const text = JSON.stringify(sealed)
        for (const one of [...Object.values(values), ...Object.values(contents)])
          if (/[^A-Za-z0-9+/=]/.test(one)) assert.equal(text.includes(one), false)
      },
    ),
  )
})

test('changes add to what there is, for each owner by itself; a plain variable that becomes secret is plain no more', () => {
  const first = changedEnvironment(sealer, empty, { env: { MODE: 'test', TOKEN: 'plain' }, secretEnv: { A: '1' } }, 'ada')
  const second = given('ada', { A: '2', TOKEN: 'hidden' }, undefined, first)
  assert.deepEqual([second.env, openSecrets(sealer, second.secrets).env], [{ MODE: 'test' }, { A: '2', TOKEN: 'hidden' }])
  const third = given('bob', { B: '3' }, true, second)
  assert.deepEqual(
    third.secrets.map(({ owner, inherit, names }) => [owner, inherit, names]),
    [
      ['ada', false, ['A', 'TOKEN']],
      ['bob', true, ['B']],
    ],
  )
  const opened = changedEnvironment(sealer, third, { inherit: true }, 'ada')
  assert.equal(opened.secrets.find(({ owner }) => owner === 'ada')?.inherit, true)
  assert.deepEqual(openSecrets(sealer, opened.secrets).env, { A: '2', TOKEN: 'hidden', B: '3' })
})

test('a name is of one kind, and a secret is changed by its owner alone; no refusal says a value', () => {
  const before = given('ada', { TOKEN: 'hush-hush' })
  const change = (by: string, asked: Parameters<typeof changedEnvironment>[2]) => () => changedEnvironment(sealer, before, asked, by)
  assert.throws(change('ada', { env: { X: 'hush' }, secretEnv: { X: 'hush' } }), refused('invalid_request', /^secret_env\.X: (?!.*hush)/))
  assert.throws(change('ada', { env: { TOKEN: 'hush' } }), refused('invalid_request', /^env\.TOKEN: (?!.*hush)/))
  assert.throws(
    change('bob', { secretEnv: { TOKEN: 'hush' } }),
    refused('forbidden', /^secret_env\.TOKEN: it is a secret of ada; (?!.*hush)/),
  )
  assert.throws(change('bob', { inherit: true }), refused('invalid_request', /^inherit_secrets: bob/))
})

test('the owner has the secrets in every fork; others only what may be inherited, and no fork with memory that holds more', () => {
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.constantFrom('ada', 'bob', 'cleo'), { minLength: 1 }),
      fc.array(fc.boolean(), { minLength: 3, maxLength: 3 }),
      fc.boolean(),
      (owners, inherits, withMemory) => {
        const { secrets } = owners.reduce(
          (before, by, index) => given(by, { [`S_${by.toUpperCase()}`]: 'x' }, inherits[index] ?? false, before),
          empty,
        )
        for (const by of ['ada', 'bob', 'dan']) {
          const allowed = secrets.filter(({ owner, inherit }) => owner === by || inherit)
          if (withMemory && allowed.length < secrets.length)
            assert.throws(() => inheritedSecrets(source(secrets), by, withMemory), refused('forbidden', /target_state Stopped/))
          else assert.deepEqual(inheritedSecrets(source(secrets), by, withMemory), allowed)
        }
      },
    ),
  )
})

test('a record that was edited so that others may have its secrets opens no more', () => {
  const [block] = given('ada', { TOKEN: 'x' }).secrets
  assert.ok(block !== undefined)
  for (const edited of [
    { ...block, owner: 'bob' },
    { ...block, inherit: true },
    { ...block, names: ['OTHER'] },
    { ...block, files: [{ name: 'tls.key', bytes: 1 }] },
  ])
    assert.throws(() => openSecrets(sealer, [edited]), refused('conflict', /can't be opened/))
})

test('secrets whose key is lost keep an instance from nothing but a start, until all of them are given anew', () => {
  const lost = given('ada', { A: '1', B: '2' })
  const alone = createSealer(['the key that is used now'])
  assert.deepEqual(changedEnvironment(alone, lost, { env: { MODE: 'x' } }, 'ada'), { env: { MODE: 'x' }, secrets: lost.secrets })
  assert.throws(() => changedEnvironment(alone, lost, { secretEnv: { A: '3' } }, 'ada'), refused('conflict', /SECRETS__PREVIOUS_KEY/))
  const anew = changedEnvironment(alone, lost, { secretEnv: { A: '3', B: '4' } }, 'ada')
  assert.deepEqual(openSecrets(alone, anew.secrets).env, { A: '3', B: '4' })
})

test('files are added and changed as variables are, beside them, and a file of the same name as a variable is another secret', () => {
  const first = changedEnvironment(sealer, empty, { secretEnv: { TOKEN: 'a' }, secretFiles: { TOKEN: 'b', 'tls.key': 'c' } }, 'ada')
  const second = changedEnvironment(sealer, first, { secretFiles: { 'tls.key': 'd' } }, 'ada')
  const third = changedEnvironment(sealer, second, { secretFiles: { 'ca.pem': 'e' } }, 'bob')
  assert.deepEqual(openSecrets(sealer, third.secrets), { env: { TOKEN: 'a' }, files: { TOKEN: 'b', 'tls.key': 'd', 'ca.pem': 'e' } })
  assert.deepEqual(fileNamesOf(third.secrets), ['TOKEN', 'ca.pem', 'tls.key'])
  assert.deepEqual(
    changedEnvironment(sealer, third, { env: { 'tls.key': 'x' } }, 'ada').env,
    { 'tls.key': 'x' },
    'no variable has that name',
  )
  assert.throws(
    () => changedEnvironment(sealer, third, { secretFiles: { 'tls.key': 'hush' } }, 'bob'),
    refused('forbidden', /^secret_files\.tls\.key: it is a secret of ada; (?!.*hush)/),
  )
  assert.throws(
    () => inheritedSecrets(source(third.secrets), 'bob', true),
    refused('forbidden', /TOKEN, the file TOKEN, the file tls\.key of ada/),
  )
  assert.deepEqual(fileNamesOf(inheritedSecrets(source(third.secrets), 'bob', false)), ['ca.pem'])
})

test('files of all owners together have to fit into a guest, whoever gives the last; what is replaced counts no more', () => {
  const full = 'x'.repeat(LONGEST_SECRET_FILE)
  const many = Math.floor(MOST_SECRET_FILE_BYTES / LONGEST_SECRET_FILE)
  const of = (count: number, text: string): Record<string, string> =>
    Object.fromEntries(Array.from({ length: count }, (_, index) => [`f${index}`, text]))
  const first = changedEnvironment(sealer, empty, { secretFiles: of(many, full) }, 'ada')
  assert.throws(
    () => changedEnvironment(sealer, first, { secretFiles: { more: 'x' } }, 'bob'),
    refused('invalid_request', new RegExp(`^secret_files: .*${MOST_SECRET_FILE_BYTES + 1} bytes`)),
  )
  const smaller = changedEnvironment(sealer, first, { secretFiles: { f0: '' } }, 'ada')
  assert.equal(fileNamesOf(changedEnvironment(sealer, smaller, { secretFiles: { more: 'x' } }, 'bob').secrets).length, many + 1)
  assert.throws(
    () => changedEnvironment(sealer, empty, { secretFiles: of(MOST_SECRET_FILES + 1, '') }, 'ada'),
    refused('invalid_request', /^secret_files: /),
  )
})

test('files whose key is lost are given anew together with the variables', () => {
  const lost = changedEnvironment(sealer, empty, { secretEnv: { A: '1' }, secretFiles: { f: '2' } }, 'ada')
  const alone = createSealer(['the key that is used now'])
  assert.throws(
    () => changedEnvironment(alone, lost, { secretEnv: { A: '3' } }, 'ada'),
    refused('conflict', /the secrets A, the file f of ada can't be opened/),
  )
  const anew = changedEnvironment(alone, lost, { secretEnv: { A: '3' }, secretFiles: { f: '4' } }, 'ada')
  assert.deepEqual(openSecrets(alone, anew.secrets), { env: { A: '3' }, files: { f: '4' } })
})
