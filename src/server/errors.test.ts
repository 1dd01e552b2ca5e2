import assert from 'node:assert/strict'
import { test } from 'node:test'
import { instanceView } from '../../tests/support/fake-services.ts'
import { serveFakes } from '../../tests/support/http-server.ts'
import { HypemanError } from '../api/errors.ts'

test('what is wrong with a request is answered with a code and the path of the field', async () => {
  await using server = await serveFakes()
  server.services.instancesById.set('web', instanceView('web', 'Running'))
  const post = async (path: string, body: string | object, type = 'application/json'): Promise<[number, string, string]> => {
    const text = typeof body === 'string' ? body : JSON.stringify(body)
    const answer = await server.fetch(path, { method: 'POST', headers: { 'content-type': type }, body: text })
    const { code, message } = (await answer.json()) as { code: string; message: string }
    return [answer.status, code, message]
  }
  const image = 'alpine'
  const cases = [
    [await post('/instances', { image, name: 'No' }), 400, 'invalid_name', /^name: a name is lower-case/],
    [await post('/instances', { name: 'web' }), 400, 'invalid_request', /^image: it is required, and a string/],
    [await post('/instances', { name: 'a', image, vcpus: '2' }), 400, 'invalid_request', /^vcpus: .*number/],
    [await post('/instances', { name: 'a', image, size: 'huge' }), 400, 'invalid_size', /^size: /],
    [await post('/instances', { name: 'a', image, overlay_size: 'x' }), 400, 'invalid_overlay_size', /^overlay_size: /],
    [await post('/instances', { name: 'a', image, ttl: '1 day' }), 400, 'invalid_ttl', /^ttl: /],
    [
      await post('/instances', { name: 'a', image, network: { ports: [{ guest_port: 0 }] } }),
      400,
      'invalid_request',
      /^network\.ports\.0\.guest_port: /,
    ],
    [await post('/instances/web/snapshots', { kind: 'Standby', name: 'No' }), 400, 'invalid_name', /^name: a name is/],
    [await post('/instances', '{"name":'), 400, 'invalid_request', /^the body is not JSON/],
    [await post('/instances', '{"secret_env":{"KEY":hush}}'), 400, 'invalid_request', /^the body is not JSON: Unexpected token 'h'$/],
    [await post('/instances', '[]'), 400, 'invalid_request', /^the request: .*object/],
    [await post('/instances', 'a=b', 'application/x-www-form-urlencoded'), 400, 'invalid_request', /application\/json/],
    [await post('/instances', { name: 'a', image, env: { A: 'x'.repeat(5 * 1024 ** 2) } }), 413, 'payload_too_large', /larger/],
    [await post('/volumes/from-archive?size_gb=1', 'x', 'application/gzip'), 400, 'missing_field', /name/],
    [
      await post('/volumes/from-archive?name=a&size_gb=0', 'x', 'application/gzip'),
      400,
      'invalid_field',
      /size_gb must be a positive integer/,
    ],
  ] as const
  for (const [[status, code, message], wantedStatus, wantedCode, wantedMessage] of cases) {
    assert.deepEqual([status, code], [wantedStatus, wantedCode], message)
    assert.match(message, wantedMessage)
  }
  const query = await server.fetch('/instances/web/wait?state=Gone&timeout=x')
  const body = (await query.json()) as { code: string; message: string; details: { code: string }[] }
  assert.match(body.message, /^query parameter state: /)
  assert.deepEqual(
    body.details.map(({ code }) => code),
    ['invalid_request', 'invalid_timeout'],
  )
  assert.equal(server.services.calls.length, 0, 'nothing was done')
})

test('errors of the services keep code, message and details, and say whether trying again is of use', async () => {
  await using server = await serveFakes()
  const failing = async (error: Error): Promise<Response> => {
    server.services.failNext = error
    return server.fetch('/instances/web')
  }
  const conflict = await failing(
    new HypemanError('conflict', 'web: two things', { details: [{ code: 'a', message: 'one' }, { message: 'two' }] }),
  )
  assert.equal(conflict.status, 409)
  assert.equal(conflict.headers.get('x-should-retry'), 'false')
  assert.deepEqual(await conflict.json(), {
    code: 'conflict',
    message: 'web: two things',
    details: [{ code: 'a', message: 'one' }, { message: 'two' }],
  })
  const limited = await failing(new HypemanError('rate_limited', 'too much'))
  assert.deepEqual([limited.status, limited.headers.get('x-should-retry')], [429, null])
  assert.ok(Number(limited.headers.get('retry-after')) > 0)
  const missing = await server.fetch('/instances/nobody')
  assert.deepEqual([missing.status, await missing.json()], [404, { code: 'not_found', message: 'there is no instance nobody' }])
})

test('a fault of the server is answered with the id under which the log has it, and without its words', async () => {
  await using server = await serveFakes()
  server.services.failNext = new Error('a secret detail')
  const answer = await server.fetch('/instances/web')
  const body = (await answer.json()) as { code: string; message: string; request_id: string }
  assert.deepEqual([answer.status, body.code], [500, 'internal_error'])
  assert.equal(body.request_id, answer.headers.get('x-request-id'))
  assert.ok(!JSON.stringify(body).includes('secret'))
  const line = server.log.find((entry) => entry['msg'] === 'a request failed by a fault of the server')
  assert.equal(line?.['reqId'], body.request_id)
  assert.match(JSON.stringify(line?.['err']), /a secret detail.*errors\.test\.ts/)
})

test('an answer that does not fit its schema is a fault, not a lie', async () => {
  await using server = await serveFakes()
  server.services.instancesById.set('web', { ...instanceView('web', 'Running'), created_at: 'yesterday' })
  assert.equal((await server.fetch('/instances/web')).status, 500)
})

test('a path that does not exist is told apart from a thing that does not', async () => {
  await using server = await serveFakes()
  for (const [method, path] of [
    ['GET', '/nothing'],
    ['POST', '/instances/web/dance'],
    ['PUT', '/instances'],
  ] as const) {
    const answer = await server.fetch(path, { method })
    assert.deepEqual([answer.status, ((await answer.json()) as { code: string }).code], [404, 'route_not_found'], path)
  }
})
