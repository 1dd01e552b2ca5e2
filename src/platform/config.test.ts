// Where settings come from, which source wins, and what a wrong one is told.

import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { isHypemanError } from '../api/errors.ts'
import { listenAddress, loadConfig, traceSettings } from './config.ts'

const directory = await mkdtemp(path.join(os.tmpdir(), 'hypeman-config-'))
after(() => rm(directory, { recursive: true }))

async function file(text: string): Promise<string> {
  const name = path.join(directory, `${Math.random()}.yaml`)
  await writeFile(name, text)
  return name
}

const secret = 'a-secret-that-is-long-enough'

test('a flag wins over the environment, the environment over the file, the file over the default', async () => {
  const config = await file('port: 1\nlog_level: warn\ndata_dir: /from-file\n')
  const read = await loadConfig({ config, port: 3 }, { PORT: '2', LOG_LEVEL: 'debug' })
  assert.deepEqual([read.port, read.log_level, read.data_dir], [3, 'debug', '/from-file'])
  assert.equal(read.hypervisor.default, 'qemu')
  assert.equal(read.limits.max_overlay_size, 100 * 1024 ** 3)
})

test('a level of the file is reached from the environment by two underscores', async () => {
  const config = await file('limits:\n  max_vcpus_per_instance: 4\n')
  const read = await loadConfig({ config }, { LIMITS__MAX_OVERLAY_SIZE: '5GB', TIMEOUTS__BOOT: '90s', HYPERVISOR__DEFAULT: 'qemu-microvm' })
  assert.equal(read.limits.max_vcpus_per_instance, 4)
  assert.equal(read.limits.max_overlay_size, 5 * 1024 ** 3)
  assert.equal(read.timeouts.boot, 90_000)
  assert.equal(read.hypervisor.default, 'qemu-microvm')
})

test('an empty variable counts as not set', async () => {
  assert.equal((await loadConfig({ config: await file('') }, { PORT: '' })).port, 4973)
})

test('CONFIG_PATH names the file; one that is named must be there', async () => {
  assert.equal((await loadConfig({}, { CONFIG_PATH: await file('port: 7\n') })).port, 7)
  await assert.rejects(loadConfig({}, { CONFIG_PATH: path.join(directory, 'absent.yaml') }), /absent\.yaml can't be read/)
})

const wrong: readonly (readonly [what: string, text: string, environment: Record<string, string>, message: RegExp])[] = [
  ['an unknown setting', 'prot: 1\n', {}, /prot/],
  ['a port that is none', '', { PORT: 'http' }, /port: is not a whole number/],
  ['a size that is none', 'limits:\n  max_overlay_size: huge\n', {}, /limits\.max_overlay_size: is not a size/],
  ['an unknown log level', '', { LOG_LEVEL: 'loud' }, /log_level/],
  ['no file for the audit log', '', { AUDIT__FILES: '0' }, /audit\.files/],
  ['a leeway that is no duration', '', { AUTH__LEEWAY: 'some' }, /auth\.leeway: is not a duration/],
  ['a compression that is none', '', { SNAPSHOTS__COMPRESSION: 'gzip' }, /snapshots\.compression: is not none, zstd or lz4/],
  ['a level that there is not', 'snapshots:\n  compression: zstd:20\n', {}, /snapshots\.compression: zstd has levels from 1 to 19/],
  ['a rate that is no number', '', { RATE_LIMIT__REQUESTS_PER_MINUTE: 'few' }, /rate_limit\.requests_per_minute: is not a whole number/],
  ['a file that is no mapping', '- a\n- b\n', {}, /holds no settings/],
  ['an address that all can reach, without a secret', 'host: 0.0.0.0\n', {}, /without JWT_SECRET .* loopback only/],
]
for (const [what, text, environment, message] of wrong)
  test(`${what} is refused by name`, async () => {
    await assert.rejects(loadConfig({ config: await file(text) }, environment), (error) => {
      assert.ok(isHypemanError(error, 'invalid_request'))
      assert.match(error.message, message)
      return true
    })
  })

test('without a secret of its own the server listens on loopback, with one everywhere unless told otherwise', async () => {
  const config = await file('')
  assert.equal(listenAddress(await loadConfig({ config }, {})), '127.0.0.1')
  assert.equal(listenAddress(await loadConfig({ config }, { JWT_SECRET: secret })), '0.0.0.0')
  assert.equal(listenAddress(await loadConfig({ config, host: '127.0.0.2' }, { JWT_SECRET: secret })), '127.0.0.2')
})

const endpoint = { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://collector:4318' }
const byDefault = { exporter: 'otlp', sampler: 'parentbased_always_on', ratio: 1, delayMs: 5_000 }

/** What the environment says, and what is made of it; undefined: no traces. */
const traceEnvironments: readonly (readonly [what: string, environment: Record<string, string>, settings: object | undefined])[] = [
  ['nothing', {}, undefined],
  ['an empty address', { OTEL_EXPORTER_OTLP_ENDPOINT: '' }, undefined],
  ['an address', endpoint, byDefault],
  ['an address of traces alone', { OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'http://collector:4318/v1/traces' }, byDefault],
  ['an exporter', { OTEL_TRACES_EXPORTER: 'otlp' }, byDefault],
  ['the console', { OTEL_TRACES_EXPORTER: 'console' }, { ...byDefault, exporter: 'console' }],
  ['an address, but no exporter', { ...endpoint, OTEL_TRACES_EXPORTER: 'none' }, undefined],
  ['an address, but that it is off', { ...endpoint, OTEL_SDK_DISABLED: 'TRUE' }, undefined],
  [
    'a share of the traces',
    { ...endpoint, OTEL_TRACES_SAMPLER: 'traceidratio', OTEL_TRACES_SAMPLER_ARG: '0.25', OTEL_BSP_SCHEDULE_DELAY: '100' },
    { exporter: 'otlp', sampler: 'traceidratio', ratio: 0.25, delayMs: 100 },
  ],
]
for (const [what, environment, expected] of traceEnvironments)
  test(`traces: ${what} means ${expected === undefined ? 'none' : JSON.stringify(expected)}`, () => {
    assert.deepEqual(traceSettings(environment), expected)
  })

for (const [name, value] of [
  ['OTEL_EXPORTER_OTLP_PROTOCOL', 'grpc'],
  ['OTEL_TRACES_SAMPLER', 'jaeger_remote'],
  ['OTEL_TRACES_SAMPLER_ARG', '2'],
  ['OTEL_TRACES_EXPORTER', 'zipkin'],
] as const)
  test(`traces: ${name}=${value} can't be followed, and is refused by name`, () => {
    assert.throws(
      () => traceSettings({ ...endpoint, [name]: value }),
      (error) => isHypemanError(error, 'invalid_request') && error.message.includes(name),
    )
  })

for (const [name, value, problem] of [
  ['TIMEOUTS__HEADERS', '0s', 'timeouts.headers: is shorter than 100ms'],
  ['TIMEOUTS__BODY', '48h', 'timeouts.body: is longer than a day'],
  ['LIMITS__CONNECTIONS', '0', 'limits.connections:'],
] as const)
  test(`${name}=${value} would leave the server open or closed to everybody, and is refused`, async () => {
    await assert.rejects(
      loadConfig({}, { [name]: value }),
      (error) => isHypemanError(error, 'invalid_request') && error.message.includes(problem),
    )
  })
