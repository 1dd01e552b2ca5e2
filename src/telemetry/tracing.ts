// Traces by OpenTelemetry: a span for each request, below it one for each flow that it sets off, below that one for each step. Loaded only where the
// environment asks for it (platform/config.ts); where spans go is the environment's, too: OTEL_EXPORTER_OTLP_ENDPOINT and its kin.

import {
  context,
  propagation,
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  trace,
  type Attributes,
  type Context,
  type Span,
} from '@opentelemetry/api'
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks'
import { W3CTraceContextPropagator } from '@opentelemetry/core'
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http'
import { detectResources, envDetector, resourceFromAttributes } from '@opentelemetry/resources'
import {
  AlwaysOffSampler,
  AlwaysOnSampler,
  BatchSpanProcessor,
  ConsoleSpanExporter,
  ParentBasedSampler,
  TraceIdRatioBasedSampler,
  TracerProvider,
  type Sampler,
} from '@opentelemetry/sdk-trace'
import type { TraceSettings } from '../platform/config.ts'
import type { FlowSubject, FlowWatcher } from '../platform/flow.ts'
import type { RequestTracer } from './types.ts'

/** How long the end of the server waits for the collector, in milliseconds. */
const LAST_FLUSH_MS = 3_000

export interface Tracing extends AsyncDisposable {
  readonly requests: RequestTracer
  readonly flows: FlowWatcher
}

/** Disposing sends what is left. One for each process. */
export function startTracing(settings: TraceSettings, version: string): Tracing {
  const exporter = settings.exporter === 'console' ? new ConsoleSpanExporter() : new OTLPTraceExporter()
  const processor = new BatchSpanProcessor({ exporter, exportTimeoutMillis: LAST_FLUSH_MS, scheduledDelayMillis: settings.delayMs })
  const named = resourceFromAttributes({ 'service.name': 'hypeman', 'service.version': version })
  const provider = new TracerProvider({
    resource: named.merge(detectResources({ detectors: [envDetector] })),
    sampler: samplerOf(settings),
    spanProcessors: [processor],
  })
  const contexts = new AsyncLocalStorageContextManager().enable()
  context.setGlobalContextManager(contexts)
  propagation.setGlobalPropagator(new W3CTraceContextPropagator())
  const tracer = provider.getTracer('hypeman', version)
  const within = (parent: Context, span: Span): Context => trace.setSpan(parent, span)

  return {
    requests: {
      begin({ id, method, operation, route, headers }) {
        const caller = propagation.extract(ROOT_CONTEXT, headers)
        const attributes = { 'http.request.method': method, 'http.route': route, 'hypeman.operation': operation, 'hypeman.request.id': id }
        const span = tracer.startSpan(`${method} ${route ?? ''}`.trim(), { kind: SpanKind.SERVER, attributes: present(attributes) }, caller)
        const inside = within(caller, span)
        return {
          run: (next) => context.with(inside, next),
          end({ status, code, target, answered }) {
            span.setAttributes(
              present({
                'http.response.status_code': status,
                'error.type': code,
                'hypeman.target': target,
                'hypeman.answered.id': answered.id,
              }),
            )
            if (status >= 500) span.setStatus({ code: SpanStatusCode.ERROR, ...(code === undefined ? {} : { message: code }) })
            span.end()
          },
        }
      },
    },
    flows: {
      begin(flow, about) {
        const outside = context.active()
        const attributes = { ...subjectOf(about), 'hypeman.flow': flow }
        // Steps are told when they have ended: one clock for them and their flow keeps them within it.
        const [startTime, began] = [Date.now(), performance.now()]
        const now = (): number => startTime + (performance.now() - began)
        const span = tracer.startSpan(flow, { startTime, attributes }, outside)
        const inside = within(outside, span)
        return {
          step({ step, ms, error, note }) {
            const endTime = now()
            const all = { ...attributes, ...(note === undefined ? {} : { 'hypeman.note': note }) }
            const done = tracer.startSpan(step, { startTime: Math.max(endTime - ms, startTime), attributes: all }, inside)
            if (error !== undefined) for (const one of [done, span]) one.setStatus({ code: SpanStatusCode.ERROR, message: error })
            done.end(endTime)
          },
          end: () => span.end(now()),
        }
      },
    },
    async [Symbol.asyncDispose]() {
      await provider.shutdown()
      context.disable()
      propagation.disable()
    },
  }
}

/** `{ instanceId: '…' }` → `{ 'hypeman.instance.id': '…' }`. */
function subjectOf(about: FlowSubject): Attributes {
  return Object.fromEntries(Object.entries(about).map(([name, value]) => [`hypeman.${name.replace(/Id$/, '.id')}`, value]))
}

function present(attributes: Readonly<Record<string, string | number | undefined>>): Attributes {
  return Object.fromEntries(Object.entries(attributes).filter(([, value]) => value !== undefined))
}

function samplerOf({ sampler, ratio }: TraceSettings): Sampler {
  const [, parentBased, kind] = /^(parentbased_)?(.+)$/.exec(sampler) ?? []
  const root =
    kind === 'always_off' ? new AlwaysOffSampler() : kind === 'traceidratio' ? new TraceIdRatioBasedSampler(ratio) : new AlwaysOnSampler()
  return parentBased === undefined ? root : new ParentBasedSampler({ root })
}
