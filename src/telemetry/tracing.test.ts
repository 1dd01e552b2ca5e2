// Spans as a collector gets them: who belongs to whom, errors, sampling, and the caller's own trace.

import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { startOtlpReceiver, type ReceivedSpan } from '../../tests/support/otlp-receiver.ts'
import { openFlow, step, watchFlows, type FlowContext } from '../platform/flow.ts'
import { startTracing, type Tracing } from './tracing.ts'
import type { AnsweredRequest } from './types.ts'

const collector = await startOtlpReceiver()
after(() => collector[Symbol.asyncDispose]())
// As a user would say it: the exporter reads the environment itself.
process.env['OTEL_EXPORTER_OTLP_ENDPOINT'] = collector.url
process.env['OTEL_RESOURCE_ATTRIBUTES'] = 'service.name=from-the-environment'

const settings = { exporter: 'otlp', sampler: 'parentbased_always_on', ratio: 1, delayMs: 10 } as const
const flowContext: FlowContext = { flow: 'instance.fork', signal: new AbortController().signal, onStep: () => undefined }

function answered(change: Partial<AnsweredRequest> = {}): AnsweredRequest {
  return {
    ...{ id: 'r1', method: 'POST', operation: 'forkInstance', status: 201, code: undefined, ms: 1, subject: 'ada' },
    ...{ remoteAddress: '127.0.0.1', changes: true, target: 'web', answered: { id: 'i1' } },
    ...change,
  }
}

/** Runs a request whose handler is `act`, and returns the spans of it. */
async function traced(tracing: Tracing, traceparent: string | undefined, act: () => Promise<void>, end: AnsweredRequest): Promise<void> {
  using _watching = watchFlows(tracing.flows)
  const request = tracing.requests.begin({
    ...{ id: 'r1', method: 'POST', operation: 'forkInstance', route: '/instances/:id/fork' },
    headers: traceparent === undefined ? {} : { traceparent },
  })
  let acting: Promise<void> | undefined
  request.run(() => {
    acting = act()
  })
  await acting
  request.end(end)
}

const named = (name: string, traceId: string): ReceivedSpan | undefined =>
  collector.spans.find((one) => one.name === name && one.traceId === traceId)

test('a step that fails is an error, its flow and its request are, and whatever was begun on the way belongs to the request', async () => {
  const traceId = '1'.repeat(32)
  {
    await using tracing = startTracing(settings, '1.0')
    const act = async (): Promise<void> => {
      await Promise.resolve()
      using flow = openFlow(flowContext, { instanceId: 'i1', image: 'alpine' })
      await step(flow, 'stage', () => undefined)
      await step(flow, 'commit', () => Promise.reject(new Error('the disk fails'))).catch(() => undefined)
    }
    await traced(tracing, `00-${traceId}-${'2'.repeat(16)}-01`, act, answered({ status: 500, code: 'internal_error' }))
  }
  const [request, flow, stage, commit] = ['POST /instances/:id/fork', 'instance.fork', 'stage', 'commit'].map((name) =>
    named(name, traceId),
  )
  assert.equal(request?.parentSpanId, '2'.repeat(16))
  assert.equal(flow?.parentSpanId, request.spanId)
  assert.deepEqual([stage?.parentSpanId, commit?.parentSpanId], [flow.spanId, flow.spanId])
  const error = 2
  assert.deepEqual(
    [request, flow, stage, commit].map((one) => [one?.status?.code ?? 0, one?.status?.message]),
    [
      [error, 'internal_error'],
      [error, 'the disk fails'],
      [0, undefined],
      [error, 'the disk fails'],
    ],
  )
  assert.deepEqual([flow.attributes.get('hypeman.instance.id'), flow.attributes.get('hypeman.image')], ['i1', 'alpine'])
  assert.deepEqual([...collector.services], ['from-the-environment'])
})

test('a caller who does not want a trace gets none; without a caller’s wish the sampler decides', async () => {
  const unwanted = '3'.repeat(32)
  const act = async (): Promise<void> => {
    using flow = openFlow(flowContext, {})
    await step(flow, 'stage', () => undefined)
  }
  {
    await using tracing = startTracing(settings, '1.0')
    await traced(tracing, `00-${unwanted}-${'2'.repeat(16)}-00`, act, answered())
  }
  const before = collector.spans.length
  assert.equal(named('stage', unwanted), undefined)
  {
    await using tracing = startTracing({ ...settings, sampler: 'parentbased_always_off' }, '1.0')
    await traced(tracing, undefined, act, answered())
  }
  assert.equal(collector.spans.length, before)
  {
    await using tracing = startTracing({ ...settings, sampler: 'traceidratio' }, '1.0')
    await traced(tracing, undefined, act, answered())
  }
  assert.equal(collector.spans.length, before + 3)
})

test('a flow that nobody asked for is a trace of its own', async () => {
  const before = collector.spans.length
  {
    await using tracing = startTracing(settings, '1.0')
    using _watching = watchFlows(tracing.flows)
    const digest = async (): Promise<void> => {
      using flow = openFlow({ ...flowContext, flow: 'snapshot.digest' }, {})
      await step(flow, 'read', () => undefined)
    }
    await digest()
  }
  const spans = collector.spans.slice(before)
  assert.deepEqual(spans.map(({ name }) => name).toSorted(), ['read', 'snapshot.digest'])
  assert.equal(spans.find(({ name }) => name === 'snapshot.digest')?.parentSpanId ?? '', '')
  assert.deepEqual(collector.refused, [])
})
