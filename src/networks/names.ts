// Names of the host's devices and chains of rules. Each says whose data directory it belongs to, so that servers of several data directories leave each other's alone.

import { createHash } from 'node:crypto'

/** Every tap device of hypeman's begins with this, and every device that slows what its guest sends with the other. */
const TAP = 'hmt'
const SHAPER = 'hmi'
/** Names of devices have at most 15 characters (IFNAMSIZ): three of the kind, four of the data directory, eight of the instance. */
const DIRECTORY_DIGITS = 4
const INSTANCE_DIGITS = 8

export interface NetworkNames {
  /** What all tap devices of this data directory begin with. */
  readonly tapPrefix: string
  readonly shaperPrefix: string
  /** Of an instance, by its id. */
  tap(id: string): string
  shaper(id: string): string
  readonly chains: {
    /** Table raw: what no guest may send. */
    readonly raw: string
    /** Table nat: published ports. */
    readonly ports: string
    /** Table nat: what guests send to others goes out under the host's address. */
    readonly source: string
    /** Table filter: what is forwarded. */
    readonly forward: string
    /** Table filter: what the host itself sends. */
    readonly local: string
    /** Table filter: what comes to the host itself. */
    readonly input: string
  }
  /** What rules and devices say of whose they are. */
  readonly owner: string
}

/** Longest comment of a rule (xt_comment), and of a device, with room for what stands before it; in characters. */
const LONGEST_OWNER = 180

export function networkNames(root: string): NetworkNames {
  const directory = digits(root, DIRECTORY_DIGITS)
  const [tapPrefix, shaperPrefix] = [`${TAP}${directory}`, `${SHAPER}${directory}`]
  const chain = (purpose: string): string => `HYPEMAN-${directory}-${purpose}`
  return {
    tapPrefix,
    shaperPrefix,
    tap: (id) => `${tapPrefix}${digits(id, INSTANCE_DIGITS)}`,
    shaper: (id) => `${shaperPrefix}${digits(id, INSTANCE_DIGITS)}`,
    chains: {
      ...{ raw: chain('RAW'), ports: chain('PORTS'), source: chain('SOURCE') },
      ...{ forward: chain('FORWARD'), local: chain('LOCAL'), input: chain('INPUT') },
    },
    // Plain characters alone: it stands in quotation marks.
    owner: `hypeman ${root.replaceAll(/[^\w./-]/g, '_')}`.slice(0, LONGEST_OWNER),
  }
}

/** The pattern that iptables takes for all taps of any server of hypeman's. */
export const anyTap = `${TAP}+`

/** Letters and digits that stand for a text: eight of them are the same for two of a thousand texts once in five million times. */
function digits(text: string, count: number): string {
  const number = createHash('sha256').update(text).digest().readBigUInt64BE()
  return number.toString(36).padStart(13, '0').slice(-count)
}
