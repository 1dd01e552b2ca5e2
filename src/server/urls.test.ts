import assert from 'node:assert/strict'
import { test } from 'node:test'
import { canonicalTarget, parseQuery } from './urls.ts'

test('an image reference is one segment however it was encoded', () => {
  const wanted = '/images/docker.io%2Flibrary%2Fnginx%3Alatest'
  const spellings = [
    'docker.io/library/nginx:latest',
    'docker.io%2Flibrary%2Fnginx:latest',
    'docker.io%2flibrary%2fnginx%3alatest',
    'docker.io%252Flibrary%252Fnginx%3Alatest',
    'docker.io/library%2Fnginx:latest',
  ]
  for (const spelling of spellings) {
    assert.equal(canonicalTarget('GET', `/images/${spelling}`), wanted, spelling)
    assert.equal(canonicalTarget('DELETE', `/images/${spelling}?x=1`), `${wanted}?x=1`, spelling)
    assert.equal(canonicalTarget('POST', `/images/${spelling}/tag`), `${wanted}/tag`, spelling)
  }
  assert.equal(canonicalTarget('GET', '/images/repo@sha256:abc'), '/images/repo%40sha256%3Aabc')
})

test('an image whose name ends in /tag can be asked for', () => {
  assert.equal(canonicalTarget('GET', '/images/example.com/tag'), '/images/example.com%2Ftag')
  assert.equal(canonicalTarget('POST', '/images/example.com%2Ftag/tag'), '/images/example.com%2Ftag/tag')
})

test('everything else stays as it is, also what no decoder understands', () => {
  for (const [method, target] of [
    ['GET', '/images'],
    ['GET', '/images?tags[a]=b'],
    ['GET', '/images/events'],
    ['POST', '/images/import?name=a%2Fb'],
    ['GET', '/instances/a%2Fb'],
    ['GET', '/images/%zz'],
    ['GET', '/images/'],
  ] as const)
    assert.equal(canonicalTarget(method, target), target)
})

test('deep objects are read with bare and with encoded brackets', () => {
  const query = parseQuery('tags[team]=back+end&tags%5Benv%5D=dev%2F1&state=Running')
  assert.deepEqual(JSON.parse(JSON.stringify(query)), { tags: { team: 'back end', env: 'dev/1' }, state: 'Running' })
})

test('names from outside reach no prototype, and a name is either a value or a group', () => {
  const query = parseQuery('__proto__[polluted]=1&tags=x&tags[a]=b&a=1&a=2')
  assert.equal(Reflect.get({}, 'polluted'), undefined)
  assert.equal(query['tags'], 'x')
  assert.equal(query['a'], '1')
})
