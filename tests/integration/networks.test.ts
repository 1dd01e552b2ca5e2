// Guests on tap devices of the host: what they reach, how they are reached, what their forks have, what a limit holds back, and that nothing of it stays.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFile, readdir } from 'node:fs/promises'
import { createServer, type AddressInfo, type Server } from 'node:net'
import path from 'node:path'
import { after, test } from 'node:test'
import { run } from '../support/command.ts'
import { runIn, runMachine, shell, small, untilRunning } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { until } from '../support/until.ts'
import { countVm } from '../support/vm-count.ts'
import { killVmms } from '../support/vmm.ts'

const rights = process.getuid?.() === 0 ? false : 'needs root: devices and rules of the host'
const SUBNET = '10.213.0.0/24'
const GATEWAY = '10.213.0.1'
const server = await startServer({ NETWORK__MODE: 'tap', NETWORK__SUBNET_CIDR: SUBNET })
after(() => server[Symbol.asyncDispose]())

const instances = () => server.client.instances

interface Published {
  readonly host_port: number
}
interface Networked {
  readonly ip: string
  readonly mac: string
  readonly ports: readonly Published[]
}
const networkOf = async (id: string): Promise<Networked> => (await instances().get(id)).network as unknown as Networked

/** Devices of this server's on the host, and lines of rules that say they are its. */
async function ownedByServer(): Promise<{ readonly devices: readonly string[]; readonly rules: readonly string[] }> {
  const devices: string[] = []
  for (const name of await readdir('/sys/class/net')) {
    const alias = await readFile(path.join('/sys/class/net', name, 'ifalias'), 'utf8').catch(() => '')
    if (alias.includes(server.dataDirectory)) devices.push(name)
  }
  const { stdout } = await run('iptables-save', [])
  return { devices, rules: stdout.split('\n').filter((line) => line.includes(server.dataDirectory)) }
}

const pageOf = async (port: number, host = '127.0.0.1'): Promise<string> =>
  (await (await fetch(`http://${host}:${port}/`, { signal: AbortSignal.timeout(10_000) })).text()).trim()

/** A page that names the guest that shows it. */
const web = {
  cmd: ['/bin/sh', '-c', 'mkdir -p /www && echo page > /www/index.html && exec httpd -f -p 80 -h /www'],
  network: { ports: [{ guest_port: 80 }] } as object,
}

const first = await runMachine(server, { name: 'first', ...web })

test(
  'a guest has the address that is shown, reaches the host by its gateway, and nothing of it by loopback',
  { skip: rights },
  async () => {
    const { ip, mac } = await networkOf(first)
    assert.match(ip, /^10\.213\.0\./)
    assert.match(await shell(server, first, 'ip addr show eth0'), new RegExp(`${mac}[^]*${ip.replaceAll('.', '\\.')}/24`))
    await using everywhere = await listen('0.0.0.0')
    assert.equal(await shell(server, first, `nc -w 5 ${GATEWAY} ${everywhere.port} </dev/null`), 'hello')
    await using loopback = await listen('127.0.0.1')
    assert.notEqual((await runIn(server, first, `nc -w 2 ${GATEWAY} ${loopback.port} </dev/null`)).exitCode, 0)
    const spoofed = `ip route add 127.0.0.2/32 via ${GATEWAY} dev eth0; nc -w 2 127.0.0.2 ${loopback.port} </dev/null`
    assert.notEqual((await runIn(server, first, spoofed)).exitCode, 0)
  },
)

test('a published port leads into the guest, from a loopback address and its own', { skip: rights }, async () => {
  const { ip, ports } = await networkOf(first)
  const [{ host_port: port } = { host_port: 0 }] = ports
  assert.equal(await pageOf(port), 'page')
  assert.equal(await pageOf(80, ip), 'page')
})

async function listen(address: string): Promise<{ readonly port: number } & AsyncDisposable> {
  const listening: Server = createServer((socket) => socket.end('hello')).listen(0, address)
  await once(listening, 'listening')
  return {
    port: (listening.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      listening.close()
      await once(listening, 'close')
    },
  }
}
void [small, untilRunning, until, countVm, killVmms, ownedByServer]
