// What a server on a real machine tells of itself: metrics, the trace of a fork at a collector, and who changed what.

import assert from 'node:assert/strict'
import { readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { z } from 'zod'
import { dataLayout } from '../../src/files/layout.ts'
import { signToken } from '../../src/platform/token.ts'
import { runMachine } from '../support/machine.ts'
import { startOtlpReceiver, treeOf, type ReceivedSpan } from '../support/otlp-receiver.ts'
import { startServer } from '../support/server.ts'
import { until } from '../support/until.ts'
import { countVm } from '../support/vm-count.ts'

/** The server's own is in its data directory. */
const previousSecret = 'the secret before this one'

const collector = await startOtlpReceiver()
after(() => collector[Symbol.asyncDispose]())
const server = await startServer({
  OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
  OTEL_SERVICE_NAME: 'hypeman-under-test',
  OTEL_BSP_SCHEDULE_DELAY: '50',
  JWT_SECRET_PREVIOUS: previousSecret,
  METRICS__PUBLIC: 'true',
})
after(() => server[Symbol.asyncDispose]())
const layout = dataLayout(server.dataDirectory)

const traceId = '4bf92f3577b34da6a3ce929d0e0e4736'
const callerSpan = '00f067aa0ba902b7'
const headers = { authorization: `Bearer ${server.token}`, 'content-type': 'application/json' }
const machine = z.object({ id: z.string(), name: z.string() })

let source = ''
let snapshot = ''
let fork: z.infer<typeof machine>
let forkRequest = ''
before(async () => {
  source = await runMachine(server, { name: 'origin' })
  snapshot = (await server.client.instances.snapshots.create(source, { kind: 'Standby', name: 'base' })).id
  const answer = await fetch(`${server.url}/snapshots/${snapshot}/fork`, {
    method: 'POST',
    headers: { ...headers, traceparent: `00-${traceId}-${callerSpan}-01` },
    body: JSON.stringify({ name: 'child', target_state: 'Running' }),
  })
  assert.equal(answer.status, 201)
  fork = machine.parse(await answer.json())
  forkRequest = answer.headers.get('x-request-id') ?? ''
  countVm('fork')
})

async function metrics(): Promise<string> {
  const answer = await fetch(`${server.url}/metrics`, { headers })
  assert.equal(answer.status, 200)
  assert.match(answer.headers.get('content-type') ?? '', /^text\/plain; version=0\.0\.4/)
  return answer.text()
}

function valueOf(text: string, sample: string): number {
  const line = text.split('\n').find((one) => one.startsWith(`${sample} `))
  assert.ok(line !== undefined, `there is ${sample} in\n${text}`)
  return Number(line.slice(sample.length + 1))
}

test('a fork is one trace: it continues the caller’s, and has the request, its flow and the steps of it, each within what it belongs to', async () => {
  const find = (name: string): ReceivedSpan | undefined => collector.spans.find((one) => one.traceId === traceId && one.name === name)
  await until('the spans have arrived', () => find('POST /snapshots/:snapshotId/fork') !== undefined && find('instance.fork') !== undefined)
  const request = find('POST /snapshots/:snapshotId/fork')!
  assert.equal(request.parentSpanId, callerSpan)
  assert.equal(request.attributes.get('hypeman.operation'), 'forkSnapshot')
  assert.equal(request.attributes.get('hypeman.request.id'), forkRequest)
  assert.equal(request.attributes.get('hypeman.target'), snapshot)
  assert.equal(request.attributes.get('http.response.status_code'), '201')
  const flow = find('instance.fork')!
  assert.equal(flow.parentSpanId, request.spanId)
  assert.deepEqual(
    ['hypeman.instance.id', 'hypeman.source.id', 'hypeman.snapshot.id'].map((name) => flow.attributes.get(name)),
    [fork.id, source, snapshot],
  )
  const steps = collector.spans.filter((one) => one.parentSpanId === flow.spanId)
  for (const name of ['stage', 'materialise', 'check', 'commit', 'agent', 'identity', 'running'])
    assert.ok(
      steps.some((one) => one.name === name),
      `${name} is among ${steps.map((one) => one.name).join(', ')}`,
    )
  for (const step of steps) {
    assert.ok(step.startTimeUnixNano >= flow.startTimeUnixNano && step.endTimeUnixNano <= flow.endTimeUnixNano, step.name)
    assert.equal(step.attributes.get('hypeman.instance.id'), fork.id)
  }
  assert.deepEqual([...collector.services], ['hypeman-under-test'])
  assert.deepEqual(collector.refused, [])
  const [root = '', ...below] = treeOf(collector.spans, request, ({ name }) => name)
  assert.deepEqual([root, below[0], below[1]], ['POST /snapshots/:snapshotId/fork', '  instance.fork', '    stage'])
})

test('a refusal is in the trace with its code', async () => {
  const refused = await fetch(`${server.url}/instances/${source}/restore`, { method: 'POST', headers, body: '{}' })
  assert.equal(refused.status, 409)
  await until('the request has arrived', () =>
    collector.spans.some(
      ({ name, attributes }) => name === 'POST /instances/:id/restore' && attributes.get('error.type') === 'invalid_state',
    ),
  )
})

test('metrics tell of requests, flows and steps, of instances, snapshots and forks, and of the memory of the VMMs', async () => {
  await until('the looks have ended', async () => valueOf(await metrics(), 'hypeman_snapshots_measured') === 1)
  const text = await metrics()
  assert.equal(valueOf(text, 'hypeman_http_request_duration_seconds_count{operation="forkSnapshot",status_class="2xx"}'), 1)
  assert.equal(valueOf(text, 'hypeman_flow_duration_seconds_count{flow="instance.fork",outcome="done"}'), 1)
  assert.equal(valueOf(text, 'hypeman_step_duration_seconds_count{flow="instance.fork",step="identity",outcome="done"}'), 1)
  assert.equal(valueOf(text, 'hypeman_step_duration_seconds_count{flow="snapshot.create",step="source-paused",outcome="done"}'), 1)
  assert.equal(valueOf(text, 'hypeman_snapshots{kind="Standby"}'), 1)
  assert.equal(valueOf(text, 'hypeman_forks{source="snapshot"}'), 1)
  assert.ok(valueOf(text, 'hypeman_snapshot_logical_bytes{kind="Standby"}') > 10 * 1024 ** 2)
  assert.ok(valueOf(text, 'hypeman_snapshot_physical_bytes') > 1024 ** 2)
  assert.ok(valueOf(text, 'hypeman_vmm_memory_bytes{hypervisor="qemu",kind="resident"}') > 10 * 1024 ** 2)
  assert.ok(valueOf(text, 'process_resident_memory_bytes') > 10 * 1024 ** 2)
  assert.ok(valueOf(text, 'nodejs_eventloop_lag_p99_seconds') > 0)
})

test('the audit log has each change with who, what, when and how it ended, and nothing of bodies and tokens', async () => {
  const audit = async () => (await readFile(layout.auditLog, 'utf8')).trim().split('\n')
  await until('the fork is in it', async () => (await audit()).some((line) => line.includes(forkRequest)))
  const lines = (await audit()).map((line) => z.looseObject({ operation: z.string(), request_id: z.string() }).parse(JSON.parse(line)))
  const { time, ms, ...line } = lines.find((one) => one.request_id === forkRequest)!
  assert.ok(typeof ms === 'number' && Math.abs(Date.parse(String(time)) - Date.now()) < 300_000)
  assert.deepEqual(line, {
    ...{ request_id: forkRequest, subject: 'tests', operation: 'forkSnapshot', target: snapshot },
    ...{ id: fork.id, name: 'child', status: 201, remote: '127.0.0.1' },
  })
  assert.ok(!lines.some(({ operation }) => ['getMetrics', 'listInstances', 'getInstance'].includes(operation)))
  assert.equal((await stat(layout.auditLog)).mode & 0o777, 0o600)
  assert.ok(!(await readFile(layout.auditLog, 'utf8')).includes(server.token))
  assert.equal(path.dirname(layout.auditLog), layout.logs)
})

test('tokens of the secret before are good as long as it is configured, and no longer', async () => {
  const old = { authorization: `Bearer ${signToken(previousSecret, { subject: 'ada', ttlSeconds: 600 })}` }
  const status = async (): Promise<number> => (await fetch(`${server.url}/instances`, { headers: old })).status
  assert.equal(await status(), 200)
  await server.restart({ RATE_LIMIT__REQUESTS_PER_MINUTE: '2' })
  assert.equal(await status(), 401)
})

test('settings reach the server: its metrics need a token unless said otherwise, and a subject that asks too often is told so', async () => {
  // Of the server that the test before has started.
  assert.equal((await fetch(`${server.url}/metrics`)).status, 401)
  const answers = []
  for (const _ of [1, 2, 3]) answers.push((await fetch(`${server.url}/volumes`, { headers })).status)
  assert.deepEqual(answers, [200, 200, 429])
  await server.restart()
  assert.equal((await fetch(`${server.url}/metrics`)).status, 200)
})
