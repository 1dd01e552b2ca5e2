// The proxy as the network keeps it: when it listens.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, createServer, type AddressInfo } from 'node:net'
import { test } from 'node:test'
import { pino } from 'pino'
import { until } from '../../tests/support/until.ts'
import { isHypemanError } from '../api/errors.ts'
import { parseSubnet } from '../platform/ipv4.ts'
import { createEgress } from './egress.ts'

test('a proxy that can not listen for a guest that is there tries again until it can', async () => {
  const subnet = parseSubnet('127.0.77.0/24') ?? assert.fail()
  const other = createServer().listen(0, subnet.gateway)
  await once(other, 'listening')
  const { port } = other.address() as AddressInfo
  await using egress = createEgress({ subnet, port }, pino({ level: 'silent' }))
  await assert.rejects(egress.admit('one', '127.0.77.9'), (error) => isHypemanError(error, 'host_unavailable'))
  other.close()
  await once(other, 'close')
  await until('it answers the guest', async () => {
    const socket = connect({ host: subnet.gateway, port, localAddress: '127.0.77.9' })
    try {
      await once(socket, 'connect')
      socket.write('GET / HTTP/1.1\r\nhost: x\r\n\r\n')
      const [answer] = (await once(socket, 'data')) as [Buffer]
      return answer.toString().startsWith('HTTP/1.1 400 ')
    } catch {
      return false // it does not listen yet
    } finally {
      socket.destroy()
    }
  })
})
