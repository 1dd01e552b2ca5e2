// A unix socket that listens before the process it is for has started, which inherits it: whoever connects waits in its queue, and nobody has to try again and
// again. socket(2), bind(2), listen(2), unix(7).

import { closeSync } from 'node:fs'
import koffi from 'koffi'

const AF_UNIX = 1
const SOCK_STREAM_CLOEXEC = 1 | 0o2000000
/** sun_path of struct sockaddr_un. */
const PATH_BYTES = 108

// Justification: what Node listens on, it accepts from, and removes when it is closed.
// Safety: the kernel reads only the address given, during the call; no call waits.
interface Calls {
  readonly socket: (family: number, type: number, protocol: number) => number
  readonly bind: (fd: number, address: Buffer, length: number) => number
  readonly listen: (fd: number, backlog: number) => number
}
let calls: Calls | undefined
function bindCalls(): Calls {
  if (calls !== undefined) return calls
  const c = koffi.load(null)
  calls = {
    socket: c.func('int socket(int family, int type, int protocol)') as Calls['socket'],
    bind: c.func('int bind(int fd, const uint8_t *address, uint32_t length)') as Calls['bind'],
    listen: c.func('int listen(int fd, int backlog)') as Calls['listen'],
  }
  return calls
}

export interface ListeningSocket extends Disposable {
  readonly fd: number
}

/** The path must not exist, and be shorter than the kernel's limit. Disposing it closes the descriptor here; the file stays. */
export function listenOn(path: string, backlog: number): ListeningSocket {
  const { socket, bind, listen } = bindCalls()
  const name = Buffer.from(path)
  if (name.length >= PATH_BYTES) throw new Error(`${path} is longer than the ${PATH_BYTES - 1} bytes of a socket's path`)
  const address = Buffer.alloc(2 + PATH_BYTES)
  address.writeUInt16LE(AF_UNIX)
  name.copy(address, 2)
  const fd = socket(AF_UNIX, SOCK_STREAM_CLOEXEC, 0)
  if (fd < 0) throw new Error(`the system gives no socket (errno ${koffi.errno()})`)
  if (bind(fd, address, address.length) === 0 && listen(fd, backlog) === 0) return { fd, [Symbol.dispose]: () => closeSync(fd) }
  const reason = koffi.errno()
  closeSync(fd)
  throw new Error(`${path} can't be listened on (errno ${reason})`)
}
