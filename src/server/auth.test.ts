import assert from 'node:assert/strict'
import { createHmac } from 'node:crypto'
import { test } from 'node:test'
import { isHypemanError } from '../api/errors.ts'
import { signToken } from '../platform/token.ts'
import { createAuthenticator, mayDo, requireScope } from './auth.ts'

const secret = 'a secret of the server'
const authenticator = createAuthenticator([secret])

function signed(claims: object, key = secret, header: object = { alg: 'HS256', typ: 'JWT' }): string {
  const body = [header, claims].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.')
  return `${body}.${createHmac('sha256', key).update(body).digest('base64url')}`
}

function refusedWith(message: string): (error: unknown) => boolean {
  return (error) => isHypemanError(error, 'unauthorized') && error.message === message
}

test('a token of ours names its caller, who may do everything', async () => {
  const caller = await authenticator.bearer(`Bearer ${signToken(secret, { subject: 'ada', ttlSeconds: 60 })}`)
  assert.deepEqual(caller, { subject: 'ada', scopes: undefined })
  assert.ok(mayDo(caller, 'instance:delete'))
})

test('a token with permissions may do what they say and no more', async () => {
  const scopes = ['instance:read', 'image:write']
  const caller = await authenticator.bearer(`bearer ${signToken(secret, { subject: 'ada', ttlSeconds: 60, scopes })}`)
  assert.deepEqual(caller.scopes, scopes)
  requireScope(caller, 'instance:read')
  assert.throws(
    () => requireScope(caller, 'instance:write'),
    (error) => isHypemanError(error, 'forbidden') && error.message === 'missing required scope: instance:write',
  )
  const all = await authenticator.bearer(`Bearer ${signToken(secret, { subject: 'ada', ttlSeconds: 60, scopes: ['*'] })}`)
  requireScope(all, 'volume:delete')
})

test('no header, another scheme and no token are told apart', async () => {
  await assert.rejects(authenticator.bearer(undefined), refusedWith('authorization header required'))
  for (const header of ['Bearer', 'Bearer ', 'Token abc', 'Bearer a b', `Basic ${Buffer.from('a:b').toString('base64')}`])
    await assert.rejects(authenticator.bearer(header), refusedWith('invalid authorization header format'), header)
})

test('tokens that are forged, expired, unsigned, without a subject or with broken permissions are invalid', async () => {
  const bad = [
    'not.a.token',
    signed({ sub: 'ada' }, 'another secret'),
    signed({ sub: 'ada', exp: Math.floor(Date.now() / 1000) - 1 }),
    signed({ sub: 'ada' }, secret, { alg: 'none' }),
    signed({ sub: 'ada' }, secret, { alg: 'HS512' }),
    signed({ iat: 1 }),
    signed({ sub: '' }),
    signed({ sub: 'ada', permissions: 'all' }),
  ]
  for (const token of bad) await assert.rejects(authenticator.bearer(`Bearer ${token}`), refusedWith('invalid token'), token)
})

test('tokens that were made for the registry are refused', async () => {
  const claims = [
    { sub: 'ada', repos: ['a'] },
    { sub: 'ada', repo_access: [{ repo: 'a', scope: 'push' }] },
    { sub: 'ada', scope: 'push' },
    { sub: 'ada', build_id: 'b' },
    { sub: 'builder-1' },
    { repos: ['a'] },
  ]
  for (const claim of claims) await assert.rejects(authenticator.bearer(`Bearer ${signed(claim)}`), refusedWith('invalid token type'))
})

test('the registry takes a bearer token, and basic authentication with the token as password or as user name', async () => {
  const token = signToken(secret, { subject: 'ada', ttlSeconds: 60 })
  const basic = (pair: string): string => `Basic ${Buffer.from(pair).toString('base64')}`
  for (const header of [`Bearer ${token}`, basic(`anyone:${token}`), basic(`${token}:`), basic(token)])
    assert.equal((await authenticator.registry(header)).subject, 'ada', header)
  await assert.rejects(authenticator.registry(basic('ada:password')), refusedWith('invalid token'))
  await assert.rejects(authenticator.registry(undefined), refusedWith('authorization header required'))
})

test('any of several secrets is good, and with none nobody gets in', async () => {
  const both = createAuthenticator(['new', 'old'])
  for (const key of ['new', 'old']) await both.bearer(`Bearer ${signToken(key, { subject: 'ada', ttlSeconds: 60 })}`)
  await assert.rejects(createAuthenticator([]).bearer(`Bearer ${signed({ sub: 'ada' })}`), refusedWith('invalid token'))
})

test('a token that was good is refused when its time is over', async (context) => {
  context.mock.timers.enable({ apis: ['Date'], now: Date.now() })
  const token = `Bearer ${signToken(secret, { subject: 'ada', ttlSeconds: 60 })}`
  for (const afterMs of [0, 59_000]) {
    context.mock.timers.tick(afterMs)
    assert.equal((await authenticator.bearer(token)).subject, 'ada')
  }
  context.mock.timers.tick(1_000)
  await assert.rejects(authenticator.bearer(token), refusedWith('invalid token'))
})

test('a token from before the clock was set back is as good as it was, and ends when it says', async () => {
  const ahead = Date.now() + 3_600_000
  const made = (ttlSeconds: number): string => `Bearer ${signToken(secret, { subject: 'ada', ttlSeconds }, ahead)}`
  assert.equal((await authenticator.bearer(made(60))).subject, 'ada')
  await assert.rejects(authenticator.bearer(made(-7_200)), refusedWith('invalid token'))
})
