// Guests whose only way out is the host's proxy: who they are, and the proxy itself, which listens while the server runs and has had such a guest.

import type { Logger } from 'pino'
import { HypemanError } from '../api/errors.ts'
import { messageOf } from '../platform/flow.ts'
import type { Subnet } from '../platform/ipv4.ts'
import { hostView, refusalsBy, resolveBy } from './egress-destinations.ts'
import { openEgressProxy, type EgressProxy } from './egress-proxy.ts'

export interface Egress extends AsyncDisposable {
  /** The proxy, as guests are told it. */
  readonly url: string
  /** Lets a guest in whose device is there. `host_unavailable` if the proxy can't listen: then it is tried again, as long as there is a guest that was let in. */
  admit(id: string, address: string): Promise<void>
  /** Closes its connections; nothing if it is not there. */
  dismiss(id: string): void
}

export interface EgressSettings {
  readonly subnet: Subnet
  readonly port: number
  readonly dnsServer?: string | undefined
}

/** How long after a failure to listen it is tried again, in milliseconds: at first, and at most. */
const [FIRST_RETRY_MS, LAST_RETRY_MS] = [1_000, 60_000]

export function createEgress({ subnet, port, dnsServer }: EgressSettings, log: Logger): Egress {
  const url = `http://${subnet.gateway}:${port}`
  const admitted = new Map<string, string>()
  let listening: Promise<EgressProxy> | undefined
  let proxy: EgressProxy | undefined
  let retryMs = FIRST_RETRY_MS
  let nextTry: NodeJS.Timeout | undefined
  let isEnding = false

  /** Guests that were there before the server have no other way out, and nobody who would ask for it. */
  const tryLater = (): void => {
    clearTimeout(nextTry)
    nextTry = setTimeout(() => {
      if (admitted.size === 0) return void (retryMs = FIRST_RETRY_MS)
      listening ??= listen()
      listening.then(
        () => log.info({ url }, 'the proxy for guests listens now'),
        (error: unknown) => log.debug({ error: messageOf(error) }, 'the proxy for guests can still not listen'),
      )
    }, retryMs)
    nextTry.unref()
    retryMs = Math.min(2 * retryMs, LAST_RETRY_MS)
  }

  /** The gateway's address is there as soon as any guest's device is, and a socket on it outlives that. */
  const listen = async (): Promise<EgressProxy> => {
    proxy = await openEgressProxy({
      host: subnet.gateway,
      port,
      resolve: resolveBy(dnsServer),
      refusal: refusalsBy(() => hostView(subnet)),
      log,
    }).catch((cause: unknown) => {
      listening = undefined
      if (!isEnding) tryLater()
      throw new HypemanError(
        'host_unavailable',
        `network.egress: the proxy for guests can't listen on ${subnet.gateway}:${port}; stop what listens there, or set network.egress_port to a free port`,
        { cause },
      )
    })
    retryMs = FIRST_RETRY_MS
    for (const address of admitted.values()) proxy.admit(address)
    return proxy
  }

  return {
    url,
    async admit(id, address) {
      admitted.set(id, address)
      listening ??= listen()
      const opened = await listening
      // It may have gone meanwhile.
      if (admitted.get(id) === address) opened.admit(address)
    },
    dismiss(id) {
      const address = admitted.get(id)
      admitted.delete(id)
      if (address !== undefined) proxy?.dismiss(address)
    },
    async [Symbol.asyncDispose]() {
      isEnding = true
      clearTimeout(nextTry)
      await listening?.catch(() => undefined) // told to who waited for it
      await proxy?.[Symbol.asyncDispose]()
    },
  }
}
