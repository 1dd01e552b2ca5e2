// A resolver that knows the addresses of some names, and says of all others that there is no such name (RFC 1035). It answers over UDP.

import { createSocket } from 'node:dgram'
import { once } from 'node:events'

/** Flags of an answer: it is one, recursion was asked for and is to be had; and that there is no such name. */
const [ANSWER, NO_SUCH_NAME] = [0x8180, 3]
const [TYPE_A, CLASS_IN] = [1, 1]
const HEADER_BYTES = 12

/** `names`: addresses of IPv4 by name. Port 0: a free one. */
export async function serveNames(
  address: string,
  port: number,
  names: Readonly<Record<string, string>>,
): Promise<{ readonly port: number } & AsyncDisposable> {
  const socket = createSocket('udp4', (query, { port: to, address: asker }) => {
    const answer = answerTo(query, names)
    if (answer !== undefined) socket.send(answer, to, asker)
  })
  socket.bind(port, address)
  await once(socket, 'listening')
  return {
    port: socket.address().port,
    async [Symbol.asyncDispose]() {
      const closed = once(socket, 'close')
      socket.close()
      await closed
    },
  }
}

function answerTo(query: Buffer, names: Readonly<Record<string, string>>): Buffer | undefined {
  const labels: string[] = []
  let at = HEADER_BYTES
  for (let length = query[at] ?? 0; length > 0; length = query[at] ?? 0) {
    labels.push(query.toString('latin1', at + 1, at + 1 + length))
    at += 1 + length
  }
  if (query.length < at + 5) return undefined
  const question = query.subarray(HEADER_BYTES, at + 5)
  const known = names[labels.join('.').toLowerCase()]
  const isAnswered = known !== undefined && query.readUInt16BE(at + 1) === TYPE_A
  const header = Buffer.alloc(HEADER_BYTES)
  query.copy(header, 0, 0, 2)
  header.writeUInt16BE(known === undefined ? ANSWER | NO_SUCH_NAME : ANSWER, 2)
  header.writeUInt16BE(1, 4)
  header.writeUInt16BE(isAnswered ? 1 : 0, 6)
  if (!isAnswered) return Buffer.concat([header, question])
  // The name is that of the question, 12 bytes into the message.
  const record = Buffer.from([0xc0, HEADER_BYTES, 0, TYPE_A, 0, CLASS_IN, 0, 0, 0, 1, 0, 4, ...known.split('.').map(Number)])
  return Buffer.concat([header, question, record])
}
