// The API reference and what it describes are held together: the file, the error table, the operations of the official client.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { z } from 'zod'
import { catalogue } from '../../src/api/errors.ts'
import { run } from '../support/command.ts'
import { instanceView } from '../support/fake-services.ts'
import { serveFakes } from '../support/http-server.ts'
import { clientOperations } from '../support/wire/client.ts'

const root = path.join(import.meta.dirname, '..', '..')

test('docs/api.md is what the routes and schemas say', async () => {
  const { code, stderr } = await run(process.execPath, ['scripts/api-reference.ts', '--check'], { cwd: root })
  assert.equal(code, 0, stderr)
})

test('every code of the error table is explained, and operations name only codes of the table', async () => {
  const text = await readFile(path.join(root, 'docs', 'api.md'), 'utf8')
  for (const code of Object.keys(catalogue)) assert.ok(text.includes(`| \`${code}\` | `), code)
  const named = [...text.matchAll(/Errors of its own: ([^.]*)\./g)].flatMap(([, list = '']) => list.match(/\w+/g) ?? [])
  assert.ok(named.length > 50)
  for (const code of named) assert.ok(code in catalogue, code)
})

const operation = z.object({ operationId: z.string(), summary: z.string(), 'x-error-codes': z.array(z.string()).optional() })
const description = z.object({ openapi: z.literal('3.1.0'), paths: z.record(z.string(), z.record(z.string(), operation)) })

test('the description of the API refers to nothing that it does not hold, and names every operation once', async () => {
  await using server = await serveFakes()
  const text = await (await fetch(`${server.url}/openapi.json`)).text()
  const { paths } = description.parse(JSON.parse(text))
  const { components } = z.object({ components: z.object({ schemas: z.record(z.string(), z.unknown()) }) }).parse(JSON.parse(text))
  const references = new Set([...text.matchAll(/"#\/components\/schemas\/(\w+)"/g)].map(([, name]) => name))
  assert.deepEqual(references, new Set(Object.keys(components.schemas)))
  const names = Object.values(paths).flatMap((item) => Object.values(item).map(({ operationId }) => operationId))
  assert.equal(new Set(names).size, names.length)
  assert.ok(names.length >= 29)
})

test('every operation of the official client has a route here', async () => {
  const operations = await clientOperations()
  assert.equal(operations.length, 63)
  await using server = await serveFakes()
  server.services.instancesById.set('x', instanceView('x', 'Running'))
  for (const { method, path: target } of operations) {
    const answer = await server.app.inject({
      method,
      url: target.replaceAll(/\{\w+\}/g, 'x'),
      headers: { authorization: `Bearer ${server.token}` },
    })
    assert.ok(!answer.body.includes('route_not_found'), `${method} ${target}`)
    assert.notEqual(answer.statusCode, 500, `${method} ${target}: ${answer.body}`)
  }
})
