// How often one subject may ask. Only where a setting says so; health, metrics and the registry are not counted.

import type { FastifyInstance } from 'fastify'
import { HypemanError } from '../api/errors.ts'

const MINUTE_MS = 60_000

/** Counts requests to the routes that are added from now on, behind the hook that finds out who asks. */
export async function limitRates(api: FastifyInstance, requestsPerMinute: number): Promise<void> {
  if (requestsPerMinute === 0) return
  const { default: rateLimit } = await import('@fastify/rate-limit')
  await api.register(rateLimit, {
    global: true,
    max: requestsPerMinute,
    timeWindow: MINUTE_MS,
    keyGenerator: ({ caller, ip }) => (caller === undefined ? `address ${ip}` : `subject ${caller.subject}`),
    errorResponseBuilder: ({ caller }, { ttl }) =>
      new HypemanError(
        'rate_limited',
        `${caller?.subject ?? 'this address'} may ask ${requestsPerMinute} times a minute; go on in ${Math.ceil(ttl / 1000)} s`,
      ),
  })
}
