// Guests whose only way out is the host's proxy: who they are, and the proxy itself, which listens while the server runs and has had such a guest.

import type { Logger } from 'pino'
import { HypemanError } from '../api/errors.ts'
import type { Subnet } from '../platform/ipv4.ts'
import { hostView, refusalOf, resolveBy } from './egress-destinations.ts'
import { openEgressProxy, type EgressProxy } from './egress-proxy.ts'

export interface Egress extends AsyncDisposable {
  /** The proxy, as guests are told it. */
  readonly url: string
  /** Lets a guest in whose device is there. `host_unavailable` if the proxy can't listen: then it is tried again with the next one. */
  admit(id: string, address: string): Promise<void>
  /** Closes its connections; nothing if it is not there. */
  dismiss(id: string): void
}

export interface EgressSettings {
  readonly subnet: Subnet
  readonly port: number
  readonly dnsServer?: string | undefined
}

export function createEgress({ subnet, port, dnsServer }: EgressSettings, log: Logger): Egress {
  const admitted = new Map<string, string>()
  let listening: Promise<EgressProxy> | undefined
  let proxy: EgressProxy | undefined

  /** The gateway's address is there as soon as any guest's device is, and a socket on it outlives that. */
  const listen = async (): Promise<EgressProxy> => {
    proxy = await openEgressProxy({
      host: subnet.gateway,
      port,
      resolve: resolveBy(dnsServer),
      refusal: async (address) => refusalOf(address, await hostView(subnet)),
      log,
    }).catch((cause: unknown) => {
      listening = undefined
      throw new HypemanError(
        'host_unavailable',
        `network.egress: the proxy for guests can't listen on ${subnet.gateway}:${port}; stop what listens there, or set network.egress_port to a free port`,
        { cause },
      )
    })
    for (const address of admitted.values()) proxy.admit(address)
    return proxy
  }

  return {
    url: `http://${subnet.gateway}:${port}`,
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
      await listening?.catch(() => undefined) // told to who waited for it
      await proxy?.[Symbol.asyncDispose]()
    },
  }
}
