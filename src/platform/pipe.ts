// Pipes, and giving a descriptor to another process over a unix socket: pipe(2), fcntl(2), sendmsg(2), unix(7) (SCM_RIGHTS).

import { closeSync } from 'node:fs'
import koffi from 'koffi'

const O_CLOEXEC = 0o2000000
const F_SETPIPE_SZ = 1031
const SOL_SOCKET = 1
const SCM_RIGHTS = 1
/** Neither a signal when the other end is gone, nor waiting for it. */
const MSG_NOSIGNAL_DONTWAIT = 0x4000 | 0x40
/** Of 64-bit Linux: struct cmsghdr with one descriptor, and the room that it takes. */
const CONTROL_BYTES = 16 + 4
const CONTROL_ROOM = 24

// Justification: Node can't make pipes (its own are sockets, which take twice as long for a page) nor send descriptors to other programs than Node.
// Safety: the kernel reads and writes only the arrays given, which live until the call has returned; no call waits.
interface Calls {
  readonly pipe2: (ends: Int32Array, flags: number) => number
  readonly fcntl: (fd: number, command: number, kind: 'int', argument: number) => number
  readonly sendmsg: (fd: number, message: BigUint64Array, flags: number) => number | bigint
}
let calls: Calls | undefined
function bindCalls(): Calls {
  if (calls !== undefined) return calls
  const c = koffi.load(null)
  calls = {
    pipe2: c.func('int pipe2(_Out_ int *ends, int flags)') as Calls['pipe2'],
    fcntl: c.func('int fcntl(int fd, int command, ...)') as Calls['fcntl'],
    sendmsg: c.func('long sendmsg(int fd, void *message, int flags)') as Calls['sendmsg'],
  }
  return calls
}

export interface Pipe extends Disposable {
  readonly readEnd: number
  readonly writeEnd: number
  /** Closes the end that is written to, here. */
  closeWriteEnd(): void
}

/** Disposing it closes what of it is open here. `bytes`: how much it should hold; a system that allows less gives what it has. */
export function openPipe(bytes: number): Pipe {
  const { pipe2 } = bindCalls()
  const ends = new Int32Array(2)
  if (pipe2(ends, O_CLOEXEC) !== 0) throw new Error(`the system gives no pipe (errno ${koffi.errno()})`)
  const [readEnd = -1, writeEnd = -1] = ends
  resizePipe(writeEnd, bytes)
  const open = new Set([readEnd, writeEnd])
  const close = (end: number): void => {
    if (open.delete(end)) closeSync(end)
  }
  return {
    readEnd,
    writeEnd,
    closeWriteEnd: () => close(writeEnd),
    [Symbol.dispose]() {
      close(readEnd)
      close(writeEnd)
    },
  }
}

/** How much a pipe, by either end, should hold from now on; a system that does not allow it changes nothing. */
export function resizePipe(end: number, bytes: number): void {
  bindCalls().fcntl(end, F_SETPIPE_SZ, 'int', bytes)
}

/** Sends a message whole, with a descriptor, over a unix socket that has room for it. */
export function sendWithDescriptor(socket: number, message: Buffer, descriptor: number): void {
  const part = BigUint64Array.of(koffi.address(message), BigInt(message.length))
  const control = Buffer.alloc(CONTROL_ROOM)
  control.writeBigUInt64LE(BigInt(CONTROL_BYTES), 0)
  control.writeInt32LE(SOL_SOCKET, 8)
  control.writeInt32LE(SCM_RIGHTS, 12)
  control.writeInt32LE(descriptor, 16)
  // struct msghdr: no name, one part, the control message, no flags.
  const header = BigUint64Array.of(0n, 0n, koffi.address(part), 1n, koffi.address(control), BigInt(CONTROL_ROOM), 0n)
  const sent = Number(bindCalls().sendmsg(socket, header, MSG_NOSIGNAL_DONTWAIT))
  if (sent !== message.length) throw new Error(`a descriptor could not be sent (${sent < 0 ? `errno ${koffi.errno()}` : `${sent} bytes`})`)
}
