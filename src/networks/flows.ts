// TCP connections into guests on tap devices, as the kernel tracks them for its rules (/proc/net/nf_conntrack): they are the host's own nowhere else.

import { readFile } from 'node:fs/promises'

export interface GuestFlow {
  /** Address and port of the guest that was connected to. */
  readonly guest: string
  readonly guestPort: number
  /** Address and port of who has connected. */
  readonly source: string
  readonly sourcePort: number
  /** How long ago it ended, in milliseconds; null while it is open. */
  readonly endedMs: number | null
}

/** States in which both ends have spoken and neither is done. */
const open: ReadonlySet<string> = new Set(['SYN_RECV', 'ESTABLISHED', 'FIN_WAIT', 'CLOSE_WAIT', 'LAST_ACK'])
/** States in which it is over and remembered, with the setting that says for how long. */
const over: Readonly<Record<string, string>> = { TIME_WAIT: 'nf_conntrack_tcp_timeout_time_wait', CLOSE: 'nf_conntrack_tcp_timeout_close' }

/** Connections that others have made to guests. Fails where the kernel does not show them. */
export async function guestFlows(): Promise<readonly GuestFlow[]> {
  const [text, ...limits] = await Promise.all([
    readFile('/proc/net/nf_conntrack', 'latin1'),
    ...Object.entries(over).map(async ([state, setting]) => {
      const seconds = Number.parseInt(await readFile(`/proc/sys/net/netfilter/${setting}`, 'latin1'), 10)
      return [state, seconds] as const
    }),
  ])
  return parseFlows(text, new Map(limits))
}

/** `remembered`: for how many seconds a connection that is over stays in the list, by its state. Lines of other kinds are passed over. */
export function parseFlows(text: string, remembered: ReadonlyMap<string, number>): readonly GuestFlow[] {
  return text.split('\n').flatMap((line) => {
    const match =
      /^ipv4\s+2 tcp\s+6 (\d+) ([A-Z_0-9]+) src=(\S+) dst=\S+ sport=(\d+) dport=\d+ (?:\[UNREPLIED\] )?src=(\S+) dst=\S+ sport=(\d+) dport=\d+ /.exec(
        line,
      )
    if (match === null) return []
    const [, left = '', state = '', source = '', sourcePort = '', guest = '', guestPort = ''] = match
    const limit = remembered.get(state)
    const endedMs = limit === undefined ? null : Math.max(0, limit - Number(left)) * 1000
    return limit !== undefined || open.has(state)
      ? [{ guest, guestPort: Number(guestPort), source, sourcePort: Number(sourcePort), endedMs }]
      : []
  })
}
