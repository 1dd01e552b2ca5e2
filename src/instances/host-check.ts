// Health checks of instances whose agent is not to be waited for (skip_guest_agent): the host makes them, where it can reach the guest.

import type { ProbeAnswer, ProbeRequest } from '../agent/contract.ts'
import { HypemanError } from '../api/errors.ts'
import { probeFromHost, userModeAddress } from '../networks/index.ts'
import type { InstanceEntry } from './entry.ts'
import type { Probe } from './health.ts'
import type { InstanceRecord } from './record.ts'

type Network = NonNullable<InstanceRecord['network']>
/** What the host can check. */
export type NetworkProbe = Exclude<Probe, { type: 'exec' }>

interface Target {
  readonly host: string
  readonly port: number
  /** As the program in the guest sees it. */
  readonly authority: string
}

/** Why the host can't make the check in a guest in user mode with these ports; undefined if it can. */
export function whyNotInUserMode(probe: Probe, ports: Network['ports']): string | undefined {
  if (probe.type === 'exec') return 'only the agent runs commands'
  if (probe.type === 'tcp')
    return 'in user mode the VMM takes each connection before the guest does, so that a check by tcp would always pass'
  return publishedPort(probe, ports) === undefined
    ? `in user mode the host reaches a guest by published ports alone, and none leads to its tcp port ${probe.port}`
    : undefined
}

/** Makes a check from the host. Throws `not_supported` if the guest can't be reached from there. */
export async function askFromHost(
  { record, idle }: InstanceEntry,
  probe: NetworkProbe,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<ProbeAnswer> {
  const { host, port, authority } = targetOf(record.network, probe)
  return probeFromHost(requestOf(probe, { host, port, timeoutMs }), { authority, signal, onPort: (own) => idle.ownProbes.begin(own) })
}

/** What is asked of the program, wherever it is asked from. */
export function requestOf(probe: NetworkProbe, target: Pick<ProbeRequest, 'host' | 'port' | 'timeoutMs'>): ProbeRequest {
  return probe.type === 'tcp' ? { type: 'tcp', ...target } : { type: probe.scheme, path: probe.path, ...target }
}

function targetOf(network: InstanceRecord['network'], probe: NetworkProbe): Target {
  if (network?.kind === 'tap' && network.address !== null)
    return { host: network.address, port: probe.port, authority: `${network.address}:${probe.port}` }
  const why = network?.kind === 'user' ? whyNotInUserMode(probe, network.ports) : 'it has no network'
  const published = publishedPort(probe, network?.ports ?? [])
  if (why !== undefined || published === undefined)
    throw new HypemanError('not_supported', `the host can't make this check: ${why ?? 'its port is not published'}`)
  return { host: reachable(published.hostAddress), port: published.hostPort, authority: `${userModeAddress}:${probe.port}` }
}

function publishedPort(probe: NetworkProbe, ports: Network['ports']): Network['ports'][number] | undefined {
  return ports.find(({ protocol, guestPort }) => protocol === 'tcp' && guestPort === probe.port)
}

/** Where the host connects to what is published on all of its addresses. */
function reachable(hostAddress: string): string {
  if (hostAddress === '0.0.0.0' || hostAddress === '') return '127.0.0.1'
  return hostAddress === '::' ? '::1' : hostAddress
}
