// ioctl(2), and what the kernel takes by it to make a tap device (tuntap.rst of its documentation, netdevice(7)).

import koffi from 'koffi'

// Justification: Node has no such call.
// Safety: integers, and buffers that outlive the synchronous call; success is told by the result alone.
interface Calls {
  readonly request: (fd: number, number: number, argument: Buffer) => number
  readonly set: (fd: number, number: number, value: number) => number
}
let calls: Calls | undefined
function bindCalls(): Calls {
  if (calls !== undefined) return calls
  const c = koffi.load(null)
  calls = {
    request: c.func('int ioctl(int fd, unsigned long request, _Inout_ uint8_t *argument)') as Calls['request'],
    set: c.func('int ioctl(int fd, unsigned long request, long value)') as Calls['set'],
  }
  return calls
}

/** 0, or what the call returns as an error; `koffi.errno()` says which. */
export function ioctl(fd: number, number: number, argument: Buffer | number): number {
  return typeof argument === 'number' ? bindCalls().set(fd, number, argument) : bindCalls().request(fd, number, argument)
}

/** linux/if_tun.h */
export const TUNSETIFF = 0x4004_54ca
export const TUNSETOWNER = 0x4004_54cc
const IFF_TAP = 0x0002
const IFF_NO_PI = 0x1000
/** struct ifreq: a name of 16 bytes, then a union of 24. */
export const IFREQ_NAME_BYTES = 16
const IFREQ_BYTES = 40

/** struct ifreq of a network device; what is asked of it follows the name. */
export function interfaceRequest(name: string): Buffer {
  const request = Buffer.alloc(IFREQ_BYTES)
  request.write(name, 0, IFREQ_NAME_BYTES - 1, 'latin1')
  return request
}

/** What TUNSETIFF takes to make or open a tap device whose frames come without a header of the kernel's; `flags` are further ones. */
export function tapRequest(name: string, flags = 0): Buffer {
  const request = interfaceRequest(name)
  request.writeUInt16LE(IFF_TAP | IFF_NO_PI | flags, IFREQ_NAME_BYTES)
  return request
}
