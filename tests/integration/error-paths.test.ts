// Every error that an operation says it may answer with, provoked on a real server with stand-ins for its machines. What an operation says is its `x-error-codes`.

import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { after, afterEach, before, test } from 'node:test'
import { catalogue, type ErrorCode, type ErrorRow } from '../../src/api/errors.ts'
import { absentOperations } from '../../src/server/routes/absent.ts'
import { signToken } from '../../src/platform/token.ts'
import { ask, type Answer } from '../support/error-paths/ask.ts'
import { cases } from '../support/error-paths/cases.ts'
import { elsewhere } from '../support/error-paths/elsewhere.ts'
import { lookup } from '../support/error-paths/lookups.ts'
import { errorWorld, type ErrorWorld } from '../support/error-paths/world.ts'
import { serveFakes } from '../support/http-server.ts'
import { describedOperations } from '../support/wire/described.ts'

let world: ErrorWorld
before(async () => {
  world = await errorWorld()
})
after(() => world[Symbol.asyncDispose]())
afterEach(async () => {
  const { client } = world.server
  // What was refused is not there; what was not would stand in the way of others.
  for (const { name } of await client.instances.list()) if (name === 'fresh') await client.instances.delete(name)
})

interface Operation {
  /** `METHOD /path` as in the document. */
  readonly name: string
  readonly codes: readonly ErrorCode[]
}

const operations = await documented()

async function documented(): Promise<readonly Operation[]> {
  await using server = await serveFakes()
  const all = describedOperations(await (await fetch(`${server.url}/openapi.json`)).json())
  return all.map(({ method, path: at, 'x-error-codes': codes }) => ({
    name: `${method} ${at}`,
    codes: codes.filter((code) => code in catalogue) as ErrorCode[],
  }))
}

function assertAnswers({ status, headers, text }: Answer, code: ErrorCode): void {
  const row: ErrorRow = catalogue[code]
  assert.ok(text.startsWith('{'), `${status} ${text}`)
  const body = JSON.parse(text) as Readonly<Record<string, unknown>>
  assert.ok(body['code'] === code && (status === row.status || status === row.stateStatus), `${status} ${text}`)
  assert.match(String(body['message']), /\w+ \w+/)
  assert.ok(headers['x-request-id'] !== undefined, 'it has no request id')
  assert.match(headers['content-type'] ?? '', /^application\/json/)
  assert.equal(headers['retry-after'] !== undefined, row.retry === true, 'whether clients shall try again')
  assert.doesNotMatch(text, /\bat .*:\d+:\d+|node:internal|node_modules/)
  for (const key of Object.keys(body)) assert.ok(['code', 'message', 'details', 'request_id'].includes(key), key)
}

/** What this server does not have at all is refused whatever is asked. */
const refusesAll = (name: string, code: ErrorCode): boolean =>
  (code === 'not_supported' || code === 'conflict') &&
  absentOperations.some(({ method, path: at }) => name === `${method} ${at.replaceAll(/:(\w+)/g, '{$1}')}`)

for (const { name, codes } of operations)
  for (const code of codes) {
    const provoke = cases[name]?.[code]
    if (code === 'not_supported' && refusesAll(name, code))
      test(`${name} answers ${code}`, async () => {
        const [method = '', template = ''] = name.split(' ')
        const at = template.replaceAll(/\{\w+\}/g, 'runs')
        assertAnswers(await ask(world.server, method, at, method === 'POST' ? { body: {} } : {}), code)
      })
    if (provoke !== undefined)
      test(`${name} answers ${code}`, async () => {
        assertAnswers(await provoke(world), code)
      })
    const missed = lookup(name, code)
    if (missed !== undefined && !refusesAll(name, code))
      test(`${name} answers ${code} for what is not to be found`, async () => {
        assertAnswers(await ask(world.server, missed.method, missed.path(world), missed), code)
      })
  }

test('every error of every operation is provoked here, or in the test that is named', async () => {
  const open: string[] = []
  for (const { name, codes } of operations)
    for (const code of codes)
      if (
        cases[name]?.[code] === undefined &&
        lookup(name, code) === undefined &&
        elsewhere[name]?.[code] === undefined &&
        !refusesAll(name, code)
      )
        open.push(`${name} ${code}`)
  assert.deepEqual(open, [])
})

test('nothing is provoked that no operation says', () => {
  const said = new Map(operations.map(({ name, codes }) => [name, new Set<string>(codes)]))
  const unsaid = [...Object.entries(cases), ...Object.entries(elsewhere)].flatMap(([name, rows]) =>
    Object.keys(rows).flatMap((code) => (said.get(name)?.has(code) === true ? [] : [`${name} ${code}`])),
  )
  assert.deepEqual(unsaid, [])
})

test('the tests that are named exist, and speak of the error', () => {
  for (const [name, rows] of Object.entries(elsewhere))
    for (const [code, file] of Object.entries(rows)) {
      const at = path.join(import.meta.dirname, '..', '..', file)
      assert.ok(existsSync(at), `${name} ${code}: ${file}`)
      assert.ok(readFileSync(at, 'utf8').includes(code), `${file} says nothing of ${code}`)
    }
})

/** Operations that everybody may ask for. */
const open = new Set(['GET /health'])

for (const { name } of operations.filter((one) => !open.has(one.name)))
  test(`${name} tells nothing to who has no token, or one without the right`, async () => {
    const [method = '', template = ''] = name.split(' ')
    const at = template.replaceAll(/\{\w+\}/g, 'runs')
    assertAnswers(await ask(world.server, method, at, { token: '' }), 'unauthorized')
    const secret = readFileSync(path.join(world.server.dataDirectory, 'jwt-secret'), 'utf8').trim()
    const token = signToken(secret, { subject: 'nobody', scopes: [], ttlSeconds: 60 })
    assertAnswers(await ask(world.server, method, at, { token }), 'forbidden')
  })
