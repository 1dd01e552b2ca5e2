// A collector of traces: takes OTLP over HTTP as JSON (opentelemetry.io/docs/specs/otlp) and keeps the spans.

import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { z } from 'zod'

const attribute = z.object({
  key: z.string(),
  value: z.looseObject({ stringValue: z.string().optional(), intValue: z.coerce.string().optional() }),
})
const attributes = z.array(attribute).transform((list) => new Map(list.map(({ key, value }) => [key, value.stringValue ?? value.intValue])))

const span = z.object({
  traceId: z.string(),
  spanId: z.string(),
  parentSpanId: z.string().optional(),
  name: z.string(),
  startTimeUnixNano: z.coerce.bigint(),
  endTimeUnixNano: z.coerce.bigint(),
  attributes,
  status: z.object({ code: z.int().optional(), message: z.string().optional() }).optional(),
})
export type ReceivedSpan = z.infer<typeof span>

const request = z.object({
  resourceSpans: z.array(z.object({ resource: z.object({ attributes }), scopeSpans: z.array(z.object({ spans: z.array(span) })) })),
})

export interface OtlpReceiver extends AsyncDisposable {
  readonly url: string
  readonly spans: readonly ReceivedSpan[]
  /** Names of the services that sent something. */
  readonly services: ReadonlySet<string>
  /** What could not be understood. */
  readonly refused: readonly string[]
}

export async function startOtlpReceiver(): Promise<OtlpReceiver> {
  const spans: ReceivedSpan[] = []
  const services = new Set<string>()
  const refused: string[] = []
  const server = createServer((incoming, answer) => {
    const take = async (): Promise<number> => {
      const body = await text(incoming)
      const parsed = request.safeParse(JSON.parse(body))
      if (incoming.url !== '/v1/traces' || !parsed.success) {
        refused.push(`${incoming.url} ${parsed.error?.message ?? ''}`)
        return 400
      }
      for (const { resource, scopeSpans } of parsed.data.resourceSpans) {
        services.add(resource.attributes.get('service.name') ?? '')
        spans.push(...scopeSpans.flatMap((scope) => scope.spans))
      }
      return 200
    }
    take().then(
      (status) => answer.writeHead(status, { 'content-type': 'application/json' }).end('{}'),
      (error: unknown) => {
        refused.push(String(error))
        answer.writeHead(400).end()
      },
    )
  })
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening))
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}`,
    spans,
    services,
    refused,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((closed) => server.close(closed))
    },
  }
}

/** A trace as a tree of text, children by when they began. `say` writes a span. */
export function treeOf(spans: readonly ReceivedSpan[], root: ReceivedSpan, say: (span: ReceivedSpan) => string, indent = ''): string[] {
  const children = spans
    .filter((one) => one.parentSpanId === root.spanId)
    .toSorted((one, other) => Number(one.startTimeUnixNano - other.startTimeUnixNano))
  return [`${indent}${say(root)}`, ...children.flatMap((child) => treeOf(spans, child, say, `${indent}  `))]
}
