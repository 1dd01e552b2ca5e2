import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { test } from 'node:test'
import { isHypemanError } from '../api/errors.ts'
import { allocatePorts, type PublishedPort } from './ports.ts'

const port: PublishedPort = { guestPort: 80, hostPort: 0, protocol: 'tcp', hostAddress: '127.0.0.1', automatic: true }

test('automatic ports get different free host ports, for tcp and udp', async () => {
  using allocated = await allocatePorts([port, port, { ...port, protocol: 'udp' }])
  const numbers = allocated.ports.map((p) => `${p.protocol}${p.hostPort}`)
  assert.equal(new Set(numbers).size, 3)
  assert.ok(allocated.ports.every((p) => p.hostPort > 0))
})

test('a port that a program listens on is refused by number, and nothing stays promised', async () => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  assert.ok(address !== null && typeof address === 'object')
  const wanted = { ...port, hostPort: address.port, automatic: false }
  await assert.rejects(
    allocatePorts([wanted]),
    (error) => isHypemanError(error, 'port_in_use') && error.message.includes(String(address.port)),
  )
  server.close()
  await once(server, 'close')
  using again = await allocatePorts([wanted])
  assert.equal(again.ports[0]?.hostPort, address.port)
})

test('a port promised to one instance is not given to another until it is released', async () => {
  const first = await allocatePorts([port])
  const wanted = { ...port, hostPort: first.ports[0]?.hostPort ?? 0, automatic: false }
  await assert.rejects(allocatePorts([wanted]), (error) => isHypemanError(error, 'port_in_use'))
  first[Symbol.dispose]()
  using second = await allocatePorts([wanted])
  assert.equal(second.ports.length, 1)
})
