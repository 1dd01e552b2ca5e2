// IPv4 addresses as numbers, and networks in CIDR notation. Pure.

export interface Subnet {
  /** As numbers of 32 bits: the first address of the subnet, and the last. */
  readonly first: number
  readonly last: number
  readonly prefixBits: number
  /** The host's address on every device: the first after the subnet's own. */
  readonly gateway: string
}

/** Smallest and largest subnet: room for a gateway and a few guests, and what is still private. */
const FEWEST_BITS = 8
const MOST_BITS = 28

/** Undefined if the text is no network in CIDR notation from /8 to /28, or names an address inside of one. */
export function parseSubnet(text: string): Subnet | undefined {
  const [address = '', bits = '', ...rest] = text.split('/')
  const first = numberOf(address)
  const prefixBits = /^\d{1,2}$/.test(bits) ? Number(bits) : Number.NaN
  if (first === undefined || rest.length > 0 || !(prefixBits >= FEWEST_BITS && prefixBits <= MOST_BITS)) return undefined
  const size = 2 ** (32 - prefixBits)
  if (first % size !== 0) return undefined
  return { first, last: first + size - 1, prefixBits, gateway: addressOf(first + 1) }
}

/** Undefined if it is no IPv4 address in dotted form. */
export function numberOf(address: string): number | undefined {
  const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(address)
  const bytes = match?.slice(1).map(Number) ?? []
  if (bytes.length !== 4 || bytes.some((byte) => byte > 255)) return undefined
  return bytes.reduce((sum, byte) => sum * 256 + byte, 0)
}

export function addressOf(number: number): string {
  return [24, 16, 8, 0].map((shift) => Math.floor(number / 2 ** shift) % 256).join('.')
}
