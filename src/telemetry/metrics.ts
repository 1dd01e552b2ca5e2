// The metrics that Prometheus reads: how long requests, flows and steps took, and the process itself. What there is of instances and snapshots is inventory.ts's.
// Names are a promise: docs/operating.md explains them and docs/grafana/hypeman.json draws them.

import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { FlowWatcher } from '../platform/flow.ts'
import type { RequestListener } from './types.ts'

/** In seconds: a step is a millisecond or less, a pull of an image minutes. */
const BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300]
/** How exactly the lag of the event loop is told, in milliseconds: the process wakes up as often. */
const LAG_PRECISION_MS = 50

export interface Metrics extends Disposable {
  readonly registry: Registry
  readonly requests: RequestListener
  readonly flows: FlowWatcher
  /** A line of the audit log is in its file, or could not be put there. */
  auditLine(outcome: 'written' | 'failed'): void
  /** Everything in Prometheus' text format. */
  read(): Promise<{ readonly type: string; readonly text: string }>
}

export function createMetrics(version: string): Metrics {
  const registry = new Registry()
  const registers = [registry]
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: LAG_PRECISION_MS })
  new Gauge({
    name: 'hypeman_build_info',
    help: 'Always 1; the label tells the version of the server',
    labelNames: ['version'],
    registers,
  }).set({ version }, 1)
  const requestSeconds = new Histogram({
    name: 'hypeman_http_request_duration_seconds',
    help: 'How long requests took, by operation and class of status; upgraded connections and streams until they ended',
    labelNames: ['operation', 'status_class'],
    buckets: BUCKETS,
    registers,
  })
  const flowSeconds = new Histogram({
    name: 'hypeman_flow_duration_seconds',
    help: 'How long flows took from their first step until they were done or undone; failed if one of their steps did',
    labelNames: ['flow', 'outcome'],
    buckets: BUCKETS,
    registers,
  })
  const stepSeconds = new Histogram({
    name: 'hypeman_step_duration_seconds',
    help: 'How long the steps of flows took',
    labelNames: ['flow', 'step', 'outcome'],
    buckets: BUCKETS,
    registers,
  })
  const auditLines = new Counter({
    name: 'hypeman_audit_lines_total',
    help: 'Lines of the audit log, by whether they are in its file; those that failed are in the log of the server',
    labelNames: ['outcome'],
    registers,
  })
  for (const outcome of ['written', 'failed']) auditLines.inc({ outcome }, 0)

  return {
    registry,
    requests: {
      ended({ operation = 'unknown', status, ms }) {
        requestSeconds.observe({ operation, status_class: `${Math.floor(status / 100)}xx` }, ms / 1000)
      },
    },
    flows: {
      begin(flow) {
        const began = performance.now()
        let outcome = 'done'
        return {
          step(event) {
            if (event.error !== undefined) outcome = 'failed'
            stepSeconds.observe({ flow, step: event.step, outcome: event.error === undefined ? 'done' : 'failed' }, event.ms / 1000)
          },
          end: () => flowSeconds.observe({ flow, outcome }, (performance.now() - began) / 1000),
        }
      },
    },
    auditLine: (outcome) => auditLines.inc({ outcome }),
    read: async () => ({ type: registry.contentType, text: await registry.metrics() }),
    [Symbol.dispose]: () => registry.clear(),
  }
}
