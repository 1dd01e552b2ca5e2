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

const inSeconds = (seconds: number): number => Math.floor(Date.now() / 1000) + seconds

/** What a caller may send, and what they are told. */
const refusals: readonly (readonly [what: string, header: string | undefined, message: string])[] = [
  ['no header', undefined, 'authorization header required'],
  ['an empty header', '', 'authorization header required'],
  ['no token', 'Bearer', 'invalid authorization header format'],
  ['an empty token', 'Bearer ', 'invalid authorization header format'],
  ['another scheme', 'Token abc', 'invalid authorization header format'],
  ['two tokens', 'Bearer a b', 'invalid authorization header format'],
  ['a user and a password', `Basic ${Buffer.from('a:b').toString('base64')}`, 'invalid authorization header format'],
  ['what is no token', 'Bearer not.a.token', 'invalid token'],
  ['a token of another secret', `Bearer ${signed({ sub: 'ada' }, 'another secret')}`, 'invalid token'],
  ['a token whose time is over', `Bearer ${signed({ sub: 'ada', exp: inSeconds(-1) })}`, 'invalid token'],
  ['a token whose time has not come', `Bearer ${signed({ sub: 'ada', nbf: inSeconds(60) })}`, 'invalid token'],
  ['a token whose time is no number', `Bearer ${signed({ sub: 'ada', exp: 'never' })}`, 'invalid token'],
  ['a token that nobody signed', `Bearer ${signed({ sub: 'ada' }, secret, { alg: 'none' })}`, 'invalid token'],
  ['a token signed in another way', `Bearer ${signed({ sub: 'ada' }, secret, { alg: 'HS512' })}`, 'invalid token'],
  ['a token without a subject', `Bearer ${signed({ iat: 1 })}`, 'invalid token'],
  ['a token with an empty subject', `Bearer ${signed({ sub: '' })}`, 'invalid token'],
  ['permissions that are no list', `Bearer ${signed({ sub: 'ada', permissions: 'all' })}`, 'invalid token'],
  ['permissions that are no text', `Bearer ${signed({ sub: 'ada', permissions: [1] })}`, 'invalid token'],
]
for (const [what, header, message] of refusals)
  test(`${what} is refused: ${message}`, async () => {
    await assert.rejects(authenticator.bearer(header), refusedWith(message))
  })

/** Tokens by when their time is over and when it comes, in seconds from now, and whether a leeway of 30 s lets them in. */
const times: readonly (readonly [what: string, claims: object, good: boolean])[] = [
  ['whose time was over a moment ago', { exp: inSeconds(-20) }, true],
  ['whose time has been over for longer', { exp: inSeconds(-40) }, false],
  ['whose time comes in a moment', { nbf: inSeconds(20) }, true],
  ['whose time comes later', { nbf: inSeconds(90) }, false],
]
for (const [what, claims, good] of times)
  test(`with a leeway of 30 s, a token ${what} is ${good ? 'good, also when it is seen again' : 'refused'}`, async () => {
    const lenient = createAuthenticator([secret], 30_000)
    const header = `Bearer ${signed({ sub: 'ada', ...claims })}`
    for (const _ of [1, 2])
      if (good) assert.equal((await lenient.bearer(header)).subject, 'ada')
      else await assert.rejects(lenient.bearer(header), refusedWith('invalid token'))
  })

test('a token that is known is refused when its leeway is over', async (context) => {
  context.mock.timers.enable({ apis: ['Date'], now: Date.now() })
  const lenient = createAuthenticator([secret], 30_000)
  const token = `Bearer ${signToken(secret, { subject: 'ada', ttlSeconds: 60 })}`
  for (const afterMs of [0, 89_000]) {
    context.mock.timers.tick(afterMs)
    assert.equal((await lenient.bearer(token)).subject, 'ada')
  }
  context.mock.timers.tick(1_000)
  await assert.rejects(lenient.bearer(token), refusedWith('invalid token'))
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

test('once the old secret is taken away, its tokens are refused and those of the new one go on', async () => {
  const [old, fresh] = ['old', 'new'].map((key) => `Bearer ${signToken(key, { subject: 'ada', ttlSeconds: 60 })}`)
  const during = createAuthenticator(['new', 'old'])
  for (const token of [old, fresh]) await during.bearer(token)
  const later = createAuthenticator(['new'])
  await later.bearer(fresh)
  await assert.rejects(later.bearer(old), refusedWith('invalid token'))
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
