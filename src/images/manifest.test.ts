import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isHypemanError } from '../api/errors.ts'
import { parseConfig } from './config.ts'
import { choosePlatform, compressionOf, digestOf, isRunnable, parseManifest, platformsOf, toOciManifest } from './manifest.ts'

const digest = (letter: string): string => `sha256:${letter.repeat(64)}`
const docker = {
  schemaVersion: 2,
  mediaType: 'application/vnd.docker.distribution.manifest.v2+json',
  config: { mediaType: 'application/vnd.docker.container.image.v1+json', digest: digest('a'), size: 10 },
  layers: [
    { mediaType: 'application/vnd.docker.image.rootfs.diff.tar.gzip', digest: digest('b'), size: 20 },
    { mediaType: 'application/vnd.docker.image.rootfs.diff.tar', digest: digest('c'), size: 30 },
  ],
}
const bytesOf = (value: unknown): Buffer => Buffer.from(JSON.stringify(value))
const invalid = (error: unknown): boolean => isHypemanError(error, 'invalid_archive')

test("Docker's manifest becomes an OCI one of the same blobs", () => {
  const manifest = parseManifest(bytesOf(docker), 'it')
  assert.ok(manifest.kind === 'image' && isRunnable(manifest))
  assert.equal(manifest.totalBytes, 60)
  const oci: unknown = JSON.parse(toOciManifest(manifest).toString())
  assert.deepEqual(oci, {
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest: digest('a'), size: 10 },
    layers: [
      { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest: digest('b'), size: 20 },
      { mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: digest('c'), size: 30 },
    ],
  })
})

test('an index gives the manifest of a platform, and never an attestation', () => {
  const entry = (letter: string, os: string, architecture: string): object => ({
    digest: digest(letter),
    size: 1,
    platform: { os, architecture },
  })
  const index = parseManifest(
    bytesOf({
      schemaVersion: 2,
      manifests: [entry('1', 'unknown', 'unknown'), entry('2', 'linux', 'arm64'), entry('3', 'linux', 'amd64')],
    }),
    'it',
  )
  assert.ok(index.kind === 'index')
  assert.equal(choosePlatform(index, 'linux/amd64')?.digest, digest('3'))
  assert.equal(choosePlatform(index, 'linux/arm64/v8')?.digest, digest('2'))
  assert.equal(choosePlatform(index, 'linux/riscv64'), undefined)
  assert.equal(platformsOf(index), 'linux/arm64, linux/amd64')
})

test('what is no manifest is refused', () => {
  const { layers: _layers, config: _config, ...headless } = docker
  for (const value of [null, {}, [], headless, { ...docker, schemaVersion: 1 }, { ...docker, layers: [{ digest: '../../etc', size: 1 }] }])
    assert.throws(() => parseManifest(bytesOf(value), 'it'), invalid)
  assert.throws(() => parseManifest(Buffer.from('{'), 'it'), invalid)
})

test('charts and signatures travel like images and are none', () => {
  const manifest = parseManifest(
    bytesOf({ ...docker, config: { ...docker.config, mediaType: 'application/vnd.cncf.helm.config.v1+json' } }),
    'it',
  )
  assert.ok(manifest.kind === 'image' && !isRunnable(manifest))
})

test('compression and digests', () => {
  assert.equal(compressionOf('application/vnd.oci.image.layer.v1.tar+zstd'), 'zstd')
  assert.equal(compressionOf('application/vnd.docker.image.rootfs.diff.tar.gzip'), 'gzip')
  assert.equal(compressionOf('application/vnd.oci.image.layer.v1.tar'), 'none')
  assert.equal(digestOf(Buffer.from('')), 'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855')
})

test('a config without anything is one, nulls are nothing, and another platform is refused', () => {
  const bare = { os: 'linux', architecture: 'amd64' }
  const empty = { entrypoint: [], cmd: [], env: {}, workingDir: '', user: '', stopSignal: '', labels: {}, exposedPorts: [] }
  assert.deepEqual(parseConfig(bytesOf(bare), 'linux/amd64', 'it'), empty)
  assert.deepEqual(
    parseConfig(bytesOf({ ...bare, config: { Cmd: null, Env: null, Labels: null, ExposedPorts: null } }), 'linux/amd64', 'it'),
    empty,
  )
  assert.throws(
    () => parseConfig(bytesOf(bare), 'linux/arm64', 'it'),
    (error) => isHypemanError(error, 'platform_not_available'),
  )
  assert.throws(() => parseConfig(bytesOf({ ...bare, config: { Cmd: 'sh' } }), 'linux/amd64', 'it'), invalid)
  const env = parseConfig(bytesOf({ ...bare, config: { Env: ['A=1', 'A=2=3', 'B', '=x', '__proto__=own'] } }), 'linux/amd64', 'it').env
  assert.deepEqual(Object.entries(env), [
    ['A', '2=3'],
    ['__proto__', 'own'],
  ])
})
