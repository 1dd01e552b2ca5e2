// The network of a guest in user mode: the same addresses for every guest, each behind a NAT of its own in its VMM.
// Not for the VMM's own arguments (hypervisors/).

import type { GuestNetwork } from '../agent/contract.ts'

/** Address of every guest in user mode; QEMU's user network hands out this subnet by default. */
export const userModeAddress = '10.0.2.15'

/** What a guest in user mode is told. */
export function userModeNetwork(mac: string): GuestNetwork {
  return { mac, address: `${userModeAddress}/24`, gateway: '10.0.2.2', dns: ['10.0.2.3'], mtu: 1500 }
}
