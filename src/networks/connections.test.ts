// The kernel's list of connections: what its lines mean, what leads into a published port, and that a real kernel's list is understood.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, createServer, isIP, type AddressInfo, type Server } from 'node:net'
import { test } from 'node:test'
import fc from 'fast-check'
import { until } from '../../tests/support/until.ts'
import { hostConnections, parseConnections, sourceOf, type HostConnection } from './connections.ts'

const heading = '  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode'
const line = (local: string, remote: string, state: string, timer = '00:00000000', inode = '4711'): string =>
  `   0: ${local} ${remote} ${state} 00000000:00000000 ${timer} 00000000     0        0 ${inode} 1 0000000000000000 20 4 30 10 -1`

const parse = (...lines: string[]): HostConnection[] => parseConnections([heading, ...lines, ''].join('\n'), new Set([8080]))
const endOf = (state: string, timer?: string, inode?: string): unknown => {
  const [found] = parse(line('0100007F:1F90', '0200007F:C000', state, timer, inode))
  return found === undefined ? 'none' : found.endedMs
}

test('addresses and ports of both ends are read, of IPv4, IPv6, and IPv4 on a socket of IPv6', () => {
  assert.deepEqual(
    parse(
      line('0100007F:1F90', '0A01A8C0:C000', '01'),
      line('00000000000000000000000001000000:1F90', 'B80D0120000000000000000001000000:0001', '01'),
      line('0000000000000000FFFF00000100007F:1F90', '0000000000000000FFFF00000A01A8C0:C000', '01'),
      line('0100007F:0050', '0A01A8C0:1F90', '01'),
      line('0100007F:0050', '0A01A8C0:C000', '01'),
    ).map(({ local, remote }) => [local.address, local.port, remote.address, remote.port]),
    [
      ['127.0.0.1', 8080, '192.168.1.10', 49_152],
      ['::1', 8080, '2001:db8::1', 1],
      ['127.0.0.1', 8080, '192.168.1.10', 49_152],
      ['127.0.0.1', 80, '192.168.1.10', 8080],
    ],
  )
})

test('a connection is open while a process may use it, also before that has taken it', () => {
  for (const state of ['01', '04', '05', '08']) assert.equal(endOf(state), null, state)
  assert.deepEqual([endOf('01', undefined, '0'), endOf('03', undefined, '0')], [null, null])
  assert.deepEqual(
    ['04', '05', '08', '09', '0B'].map((state) => endOf(state, undefined, '0')),
    [0, 0, 0, 0, 0],
  )
})

test('a listening socket, one that is closed, and one that tries to connect are none', () => {
  for (const state of ['0A', '07', '02']) assert.equal(endOf(state), 'none', state)
})

test('of one that is over the time since then is known for a minute', () => {
  assert.equal(endOf('06', '03:00001726', '0'), 60_000 - 5_926 * 10)
  assert.equal(endOf('06', '03:00000000', '0'), 60_000)
  assert.equal(endOf('06', '03:0000FFFF', '0'), 0)
})

test('whatever the list says, it is read or passed over', () => {
  const word = fc.oneof(fc.constantFrom('0100007F:1F90', '1F90:1F90', '01', '06', '03:00001726', '0', ':', '\n', '  0:'), fc.string())
  const text = fc.array(word).map((words) => words.join(' '))
  fc.assert(fc.property(text, (one) => Array.isArray(parseConnections(one, new Set([8080])))))
  const address = fc.oneof(
    ...[8, 32].map((length) => fc.array(fc.constantFrom(...'0123456789ABCDEF'.split('')), { minLength: length, maxLength: length })),
  )
  fc.assert(
    fc.property(address, address, (local, remote) => {
      const [found] = parse(line(`${local.join('')}:1F90`, `${remote.join('')}:0001`, '01'))
      assert.ok(found !== undefined && isIP(found.local.address) !== 0 && isIP(found.remote.address) !== 0)
    }),
  )
})

const at = (local: string, remote: string, endedMs: number | null = null): HostConnection => {
  const [here, there] = [local, remote].map((text) => ({ address: text.split(' ')[0] ?? '', port: Number(text.split(' ')[1]) }))
  if (here === undefined || there === undefined) throw new Error('two were given')
  return { local: here, remote: there, endedMs }
}

test('a connection leads into a port that is published on its address, or on all', () => {
  const into = at('192.168.1.2 8080', '10.1.1.1 5000')
  for (const hostAddress of ['192.168.1.2', '0.0.0.0']) assert.equal(sourceOf(into, { hostPort: 8080, hostAddress })?.address, '10.1.1.1')
  for (const [hostPort, hostAddress] of [
    [8081, '0.0.0.0'],
    [8080, '127.0.0.1'],
  ] as const)
    assert.equal(sourceOf(into, { hostPort, hostAddress })?.address, undefined)
})

test('the client of this host that closed first tells of a connection that is over; a connection of the host to such a port elsewhere is none', () => {
  const published = { hostPort: 8080, hostAddress: '0.0.0.0' }
  assert.equal(sourceOf(at('127.0.0.1 5000', '127.0.0.1 8080', 10), published)?.address, '127.0.0.1')
  assert.equal(sourceOf(at('192.168.1.2 5000', '192.168.1.2 8080', 10), published)?.address, '192.168.1.2')
  assert.equal(sourceOf(at('192.168.1.2 5000', '10.1.1.1 8080', 10), published)?.address, undefined)
  assert.equal(sourceOf(at('127.0.0.1 5000', '127.0.0.1 8080'), published)?.address, undefined, 'its other end is in the list, too')
})

/** On a port of which nothing is listed: connections to a program that had it before may be remembered for a minute. */
async function listenUnlisted(): Promise<{ readonly server: Server; readonly port: number }> {
  for (;;) {
    const server = createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    if ((await hostConnections(new Set([port]))).length === 0) return { server, port }
    server.close()
  }
}

test("this kernel's own list shows a connection while it is open, and for a while after either side has closed it", async () => {
  const { server, port } = await listenUnlisted()
  const seen = async (): Promise<(number | null)[]> =>
    (await hostConnections(new Set([port]))).flatMap((one) =>
      sourceOf(one, { hostPort: port, hostAddress: '127.0.0.1' })?.address === '127.0.0.1' ? [one.endedMs] : [],
    )
  for (const first of ['client', 'server'] as const) {
    const taken = once(server, 'connection')
    const client = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    await once(client, 'connect')
    const [socket] = (await taken) as [typeof client]
    assert.equal((await seen()).filter((endedMs) => endedMs === null).length, 1, first)
    const [one, other] = first === 'client' ? [client, socket] : [socket, client]
    const told = once(other, 'end')
    other.resume()
    one.resume().end()
    await told
    other.end()
    for (const each of [client, socket]) if (!each.closed) await once(each, 'close')
    await until('it is over', async () => !(await seen()).includes(null))
    const ended = await seen()
    assert.equal(ended.length, first === 'client' ? 1 : 2)
    for (const endedMs of ended) assert.ok(endedMs !== null && endedMs >= 0 && endedMs <= 60_000, String(endedMs))
  }
  server.close()
})
