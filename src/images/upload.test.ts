// What failures of a push mean to who asked for it.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { HypemanError, type ErrorCode } from '../api/errors.ts'
import { parseReference } from './reference.ts'
import { ToolError } from '../platform/tool.ts'
import type { RegistryCredentials } from './types.ts'
import { explainUpload, mayPass } from './upload.ts'

const target = parseReference('registry.example.com/team/app:1')
const blob = `sha256:${'1'.repeat(64)}`

const cases: readonly (readonly [said: string, credentials: RegistryCredentials | undefined, code: ErrorCode, words: RegExp])[] = [
  [
    `trying to reuse blob ${blob} at destination: checking whether a blob ${blob} exists in registry.example.com/team/app: unauthorized: authentication required`,
    undefined,
    'invalid_request',
    /wants other credentials than the server has/,
  ],
  [
    'writing blob: initiating layer upload to /v2/team/app/blobs/uploads/ in registry.example.com: denied: requested access to the resource is denied',
    { username: 'ada', password: 'x' },
    'invalid_request',
    /^credentials: .* refuses them/,
  ],
  [
    'writing manifest: uploading manifest 1 to registry.example.com/team/app: toomanyrequests: slow down',
    undefined,
    'rate_limited',
    /later/,
  ],
  [
    `trying to reuse blob ${blob} at destination: pinging container registry registry.example.com: Get "https://registry.example.com/v2/": http: server gave HTTP response to HTTPS client`,
    undefined,
    'registry_unavailable',
    /insecure/,
  ],
  [
    `trying to reuse blob ${blob} at destination: pinging container registry registry.example.com: Get "https://registry.example.com/v2/": dial tcp: lookup registry.example.com: no such host`,
    undefined,
    'registry_unavailable',
    /can't be reached.*no such host/,
  ],
  [
    'writing blob: Patch "https://registry.example.com/v2/team/app/blobs/uploads/1": read tcp 10.0.0.1:1->10.0.0.2:443: read: connection reset by peer',
    undefined,
    'registry_unavailable',
    /can't be reached/,
  ],
  [
    'writing manifest: uploading manifest 1 to registry.example.com/team/app: manifest invalid: manifest invalid',
    undefined,
    'registry_unavailable',
    /refuses .*manifest invalid/,
  ],
  [`reading blob ${blob}: open /data/images/rootfs/1/blobs/1: no such file or directory`, undefined, 'conflict', /damaged.*pull it again/],
]

function failure(said: string, timedOut = false): ToolError {
  return new ToolError(
    'skopeo',
    `time="2026-11-29T11:11:05Z" level=fatal msg="${said.replaceAll('"', String.raw`\"`)}"`,
    timedOut,
    undefined,
  )
}

for (const [said, credentials, code, words] of cases)
  test(`"${said.slice(-50)}" is ${code}`, () => {
    const error = explainUpload(failure(said), target, credentials)
    assert.ok(error instanceof HypemanError)
    assert.equal(error.code, code)
    assert.match(error.message, words)
    assert.ok(!error.message.includes('level=fatal'))
  })

test('what no tool said is no failure of the registry', () => {
  const error = new Error('of ours')
  assert.equal(explainUpload(error, target, undefined), error)
})

test('what the network says is tried again, and neither an answer nor what takes too long', () => {
  const sent =
    'Patch "http://127.0.0.1:5000/v2/app/blobs/uploads/1": readfrom tcp 127.0.0.1:54686->127.0.0.1:5000: write tcp 127.0.0.1:54686->127.0.0.1:5000: write: '
  for (const broken of [`${sent}broken pipe`, `${sent}connection reset by peer`, 'Put "http://127.0.0.1:5000/v2/": EOF', 'status code 503'])
    assert.ok(mayPass(failure(broken)), broken)
  for (const [said, , code] of cases) if (code !== 'registry_unavailable') assert.ok(!mayPass(failure(said)), said)
  assert.ok(!mayPass(failure('manifest invalid: manifest invalid')))
  assert.ok(!mayPass(failure(`${sent}broken pipe`, true)))
  assert.ok(!mayPass(new Error('broken pipe')))
})
