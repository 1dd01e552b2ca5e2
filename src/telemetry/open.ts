// Everything that watches the server, put together as the settings say: metrics always, the audit log unless it is off, traces where the environment asks
// for them.

import type { Logger } from 'pino'
import type { DataLayout } from '../files/layout.ts'
import { traceSettings, type ServerConfig } from '../platform/config.ts'
import { messageOf, watchFlows } from '../platform/flow.ts'
import { openAuditLog } from './audit.ts'
import { describeInventory, type InventoryOptions } from './inventory.ts'
import { createMetrics } from './metrics.ts'
import type { RequestListener, RequestTracer } from './types.ts'

export interface Telemetry extends AsyncDisposable {
  readonly listeners: readonly RequestListener[]
  readonly tracer: RequestTracer | undefined
  readonly metrics: { readonly isPublic: boolean; read(): Promise<{ readonly type: string; readonly text: string }> }
  /** From now on the metrics tell what there is, too. */
  describe(inventory: Pick<InventoryOptions, 'instances' | 'snapshots' | 'capacity' | 'spares'>): void
}

export interface TelemetryOptions {
  readonly config: Pick<ServerConfig, 'audit' | 'metrics'>
  readonly layout: DataLayout
  readonly log: Logger
  readonly version: string
}

/** Flows that begin from now on are seen. Disposing writes and sends what is left. */
export async function openTelemetry({ config, layout, log, version }: TelemetryOptions): Promise<Telemetry> {
  await using undo = new AsyncDisposableStack()
  const metrics = undo.use(createMetrics(version))
  undo.use(watchFlows(metrics.flows))
  const listeners = [metrics.requests]
  if (config.audit.enabled)
    listeners.push(
      undo.use(
        openAuditLog({
          file: layout.auditLog,
          maxBytes: config.audit.max_size,
          files: config.audit.files,
          told: (outcome) => metrics.auditLine(outcome),
          failed: (line, reason) => log.error({ audit: line, reason }, 'a line could not be written to the audit log'),
        }),
      ).requests,
    )
  const settings = traceSettings()
  const tracing = settings === undefined ? undefined : undo.use((await import('./tracing.ts')).startTracing(settings, version))
  if (tracing !== undefined) undo.use(watchFlows(tracing.flows))
  const kept = undo.move()
  return {
    listeners,
    tracer: tracing?.requests,
    metrics: { isPublic: config.metrics.public, read: () => metrics.read() },
    describe(inventory) {
      const failed = (what: string, error: unknown): void => log.warn({ what, error: messageOf(error) }, 'metrics could not be renewed')
      kept.use(describeInventory(metrics.registry, { ...inventory, layout, failed }))
    },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  }
}
