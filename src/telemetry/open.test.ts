// What a server loads that was asked for nothing.

import assert from 'node:assert/strict'
import path from 'node:path'
import { test } from 'node:test'
import { run } from '../../tests/support/command.ts'

/** Prints what importing the server loads, a URL a line. */
const program = `
  import { registerHooks } from 'node:module'
  const loaded = []
  registerHooks({ load: (url, context, next) => (loaded.push(url), next(url, context)) })
  await import(process.argv[1])
  console.log(loaded.join('\\n'))
`

test('without a wish for traces or limits, neither the SDK of OpenTelemetry nor the counting of requests is loaded', async () => {
  const compose = path.join(import.meta.dirname, '../compose.ts')
  const { code, stdout, stderr } = await run(process.execPath, ['--input-type=module', '--eval', program, compose])
  assert.equal(code, 0, stderr)
  const loaded = stdout.split('\n')
  for (const present of ['/src/telemetry/open.ts', '/prom-client/'])
    assert.ok(
      loaded.some((url) => url.includes(present)),
      present,
    )
  for (const absent of ['/src/telemetry/tracing.ts', '/@opentelemetry/sdk-trace/', '/@opentelemetry/otlp', '/@fastify/rate-limit/'])
    assert.deepEqual(
      loaded.filter((url) => url.includes(absent)),
      [],
    )
})
