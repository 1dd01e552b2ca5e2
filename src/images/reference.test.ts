import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isHypemanError } from '../api/errors.ts'
import { isLoopback, parseReference } from './reference.ts'

const digest = `sha256:${'a1'.repeat(32)}`

const normal: readonly (readonly [string, string])[] = [
  ['alpine', 'docker.io/library/alpine:latest'],
  ['alpine:3.20', 'docker.io/library/alpine:3.20'],
  ['hypeman/base', 'docker.io/hypeman/base:latest'],
  ['docker.io/alpine', 'docker.io/library/alpine:latest'],
  ['index.docker.io/library/alpine', 'docker.io/library/alpine:latest'],
  ['ghcr.io/org/team/app:1.2', 'ghcr.io/org/team/app:1.2'],
  ['localhost/app', 'localhost/app:latest'],
  ['localhost:5000/app', 'localhost:5000/app:latest'],
  ['127.0.0.1:5000/org/app:v1', '127.0.0.1:5000/org/app:v1'],
  ['[::1]:5000/app', '[::1]:5000/app:latest'],
  ['Registry/app', 'Registry/app:latest'],
  ['my__app/a-b.c:A_1.x-y', 'docker.io/my__app/a-b.c:A_1.x-y'],
  [`alpine@${digest}`, `docker.io/library/alpine@${digest}`],
  [`alpine:3.20@${digest}`, `docker.io/library/alpine@${digest}`],
  [`localhost:5000/app@${digest}`, `localhost:5000/app@${digest}`],
]

for (const [typed, name] of normal)
  test(`${typed} is ${name}, and that stays itself`, () => {
    assert.equal(parseReference(typed).name, name)
    assert.equal(parseReference(name).name, name)
  })

const bad = [
  ...['', ' ', 'Alpine', 'alpine:', 'alpine:-x', `alpine:${'x'.repeat(129)}`, 'alpine@sha256:12', `alpine@sha512:${'a'.repeat(128)}`],
  ...[
    '/alpine',
    'alpine/',
    'a//b',
    'a..b',
    '../etc',
    'a/../b',
    'docker://alpine',
    'https://ghcr.io/a',
    'a b',
    'al\u0000pine',
    'a'.repeat(64),
  ],
  ...['x.y/', '-x.y/app', 'localhost:port/app', `${'a/'.repeat(200)}b`],
]

for (const text of bad)
  test(`${JSON.stringify(text.slice(0, 40))} is no reference`, () => {
    assert.throws(
      () => parseReference(text),
      (error) => isHypemanError(error, 'invalid_name'),
    )
  })

test('only registries on this machine are spoken to without TLS', () => {
  for (const host of ['localhost', 'localhost:5000', '127.0.0.1:5000', '127.1.2.3', '[::1]:5000'])
    assert.equal(isLoopback(host), true, host)
  for (const host of ['docker.io', 'localhost.example.com', '127.0.0.1.example.com', '10.0.0.1:5000'])
    assert.equal(isLoopback(host), false, host)
})
