// Guests on tap devices of the host: what they reach, how they are reached, what their forks have, what a limit holds back, and that nothing of it stays.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readdir } from 'node:fs/promises'
import { connect, createServer, type AddressInfo, type Server } from 'node:net'
import { after, before, test } from 'node:test'
import { APIError } from '@onkernel/hypeman'
import { dataLayout } from '../../src/files/layout.ts'
import { run } from '../support/command.ts'
import { devicesBelow, hasHostNetwork, rulesBelow } from '../support/host-network.ts'
import { eventsOf } from '../support/instance-events.ts'
import { runIn, runMachine, shell, small } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { until } from '../support/until.ts'
import { countVm } from '../support/vm-count.ts'
import { killVmm } from '../support/vmm.ts'

const rights = hasHostNetwork ? false : 'needs root and /dev/net/tun: devices and rules of the host'
const SUBNET = '10.213.0.0/24'
const GATEWAY = '10.213.0.1'
const settings = { NETWORK__MODE: 'tap', NETWORK__SUBNET_CIDR: SUBNET }
const server = await startServer(settings)
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

/** What this server has on the host. */
async function ownedByServer(): Promise<{ readonly devices: readonly string[]; readonly rules: readonly string[] }> {
  const { dataDirectory } = server
  return { devices: (await devicesBelow(dataDirectory)).map(({ name }) => name), rules: await rulesBelow(dataDirectory) }
}

const pageOf = async (port: number, host = '127.0.0.1'): Promise<string> =>
  (await (await fetch(`http://${host}:${port}/`, { signal: AbortSignal.timeout(10_000) })).text()).trim()

/** A page that names the guest that shows it. */
const web = {
  cmd: ['/bin/sh', '-c', 'mkdir -p /www && echo page > /www/index.html && exec httpd -f -p 80 -h /www'],
  network: { ports: [{ guest_port: 80 }] } as object,
}

let first = ''
before(async () => {
  if (hasHostNetwork) first = await runMachine(server, { name: 'first', ...web })
})

test(
  'a guest has the address that is shown, reaches the host by its gateway, and nothing of it by loopback',
  { skip: rights },
  async () => {
    const { ip, mac } = await networkOf(first)
    assert.match(ip, /^10\.213\.0\./)
    assert.match(await shell(server, first, 'ip addr show eth0'), new RegExp(`${mac}[^]*${ip.replaceAll('.', '\\.')}/24`))
    await using everywhere = await listen('0.0.0.0')
    assert.equal(await shell(server, first, `nc -w 5 ${GATEWAY} ${everywhere.port} </dev/null`), 'hello')
    await using loopback = await listen('127.0.0.2')
    assert.notEqual((await runIn(server, first, `nc -w 2 ${GATEWAY} ${loopback.port} </dev/null`)).exitCode, 0)
    // A guest's own kernel keeps loopback addresses inside; one that does not is held back by the host.
    const [own, set] = ['local 127.0.0.0/8 dev lo table local', '/proc/sys/net/ipv4/conf/eth0/route_localnet']
    const outwards = `ip route del ${own}; ip route add 127.0.0.2/32 via ${GATEWAY} dev eth0; echo 1 >${set}; ip route get 127.0.0.2`
    assert.match(await shell(server, first, outwards), new RegExp(`^127\\.0\\.0\\.2 via ${GATEWAY} dev eth0 `))
    assert.notEqual((await runIn(server, first, `nc -w 2 127.0.0.2 ${loopback.port} </dev/null`)).exitCode, 0)
    await shell(server, first, `ip route del 127.0.0.2/32 via ${GATEWAY} dev eth0; ip route add ${own}; echo 0 >${set}`)
  },
)

test('a published port leads into the guest, from a loopback address and its own', { skip: rights }, async () => {
  const { ip, ports } = await networkOf(first)
  const [{ host_port: port } = { host_port: 0 }] = ports
  assert.equal(await pageOf(port), 'page')
  assert.equal(await pageOf(80, ip), 'page')
})

test('two forks of one snapshot answer on addresses and ports of their own, and their source goes on', { skip: rights }, async () => {
  const snapshot = await instances().snapshots.create(first, { kind: 'Standby' })
  const forks = await Promise.all(['one', 'two'].map((name) => server.client.snapshots.fork(snapshot.id, { name })))
  countVm('fork')
  countVm('fork')
  for (const { id, name } of forks) await shell(server, id, `echo ${name} > /www/index.html`)
  const networks = await Promise.all([first, ...forks.map(({ id }) => id)].map(networkOf))
  for (const what of ['ip', 'mac'] as const) assert.equal(new Set(networks.map((one) => one[what])).size, 3, what)
  assert.deepEqual(await Promise.all(networks.map(({ ports: [port] }) => pageOf(port?.host_port ?? 0))), ['page', 'one', 'two'])
  const [, one, two] = networks
  assert.notEqual(
    (await runIn(server, forks[0]?.id ?? '', `nc -w 2 ${two?.ip} 80 </dev/null`)).exitCode,
    0,
    'guests do not reach each other',
  )
  const { devices } = await ownedByServer()
  assert.equal(devices.length, 3)
  await instances().delete(forks[0]?.id ?? '')
  assert.equal((await ownedByServer()).devices.length, 2)
  await assert.rejects(pageOf(one?.ports[0]?.host_port ?? 0), 'nothing is published of one that is gone')
  await instances().delete(forks[1]?.id ?? '')
  await server.client.snapshots.delete(snapshot.id)
})

test('standby takes the device away, and the guest that is back has its address and ports as before', { skip: rights }, async () => {
  const before = await networkOf(first)
  await instances().standby(first)
  assert.deepEqual((await ownedByServer()).devices, [])
  await instances().restore(first)
  const { ip, mac, ports } = await networkOf(first)
  assert.deepEqual([ip, mac], [before.ip, before.mac])
  assert.equal(await pageOf(ports[0]?.host_port ?? 0), 'page')
})

test(
  'a guest that comes back when its address is taken has another, and its older memory is given that, too',
  { skip: rights },
  async () => {
    const { ip: taken } = await networkOf(first)
    const snapshot = await instances().snapshots.create(first, { kind: 'Standby' })
    const comesBackWith = async (wanted: string): Promise<void> => {
      const shown = await shell(server, first, 'ip addr show eth0; ip route; cat /etc/hosts')
      const [address, gateway] = [wanted, GATEWAY].map((one) => one.replaceAll('.', '\\.'))
      assert.match(shown, new RegExp(`inet ${address}/24[^]*default via ${gateway} [^]*^${address}\tfirst$`, 'm'))
      assert.ok(!shown.includes(`${taken}/`) && !shown.includes(`${taken}\t`), shown)
      const { ip, ports } = await networkOf(first)
      assert.equal(ip, wanted)
      assert.equal(await pageOf(ports[0]?.host_port ?? 0), 'page')
    }
    await instances().standby(first)
    await using _route = await routeElsewhere(taken)
    await instances().restore(first)
    const { ip: other } = await networkOf(first)
    assert.notEqual(other, taken)
    await comesBackWith(other)
    await instances().standby(first)
    await instances().snapshots.restore(snapshot.id, { id: first })
    await comesBackWith(other)
    const steps = (await eventsOf(server, first)).flatMap(({ flow, step }) => (flow === 'guest.restore' ? [step] : []))
    assert.equal(steps.filter((step) => step === 'network').length, 2, 'once for each memory with the address that is taken')
    await server.client.snapshots.delete(snapshot.id)
  },
)

test(
  'guests, devices and ports outlive the server; what its crash left of a guest that is gone goes with the next start',
  { skip: rights },
  async () => {
    const gone = await runMachine(server, { name: 'gone', ...web })
    const [port, goneWith] = [(await networkOf(first)).ports[0]?.host_port ?? 0, (await networkOf(gone)).ports[0]?.host_port ?? 0]
    await server.crash()
    await killVmm(server, gone)
    assert.equal((await ownedByServer()).devices.length, 2)
    assert.equal(await pageOf(port), 'page')
    await server.restart()
    assert.equal(await pageOf(port), 'page')
    await until('the device of the other is gone', async () => (await ownedByServer()).devices.length === 1)
    await assert.rejects(pageOf(goneWith))
    await instances().delete(gone)
  },
)

test('a limit holds back what a guest receives and sends, is shown, and goes with its forks', { skip: rights }, async () => {
  const limits = { bandwidth_download: '1Mbps', bandwidth_upload: '1Mbps' }
  const slow = await runMachine(server, { name: 'slow', network: limits })
  await using source = await serveBytes()
  const secondsFor = async (id: string, transfer: string): Promise<number> => {
    const started = performance.now()
    await shell(server, id, transfer)
    return (performance.now() - started) / 1000
  }
  const transfers = {
    download: `nc -w 60 ${GATEWAY} ${source.port} </dev/null | wc -c | grep -q ${BYTES}`,
    upload: `head -c ${BYTES} /dev/zero | nc -w 60 ${GATEWAY} ${source.sink} | grep -q ${BYTES}`,
  }
  for (const [direction, transfer] of Object.entries(transfers)) {
    const [free, limited] = [await secondsFor(first, transfer), await secondsFor(slow, transfer)]
    // However busy the host is: all but the first burst has to wait for its turn.
    assert.ok(limited >= LIMITED_SECONDS && limited > free, `${direction}: ${limited} s with a limit, ${free} s without`)
  }
  const shown = (await instances().get(slow)).network
  assert.deepEqual([shown?.bandwidth_download, shown?.bandwidth_upload], ['1Mbps', '1Mbps'])
  await instances().stop(slow)
  const fork = await instances().fork(slow, { name: 'slow-fork', target_state: 'Running' })
  countVm('fork')
  assert.equal(fork.network?.bandwidth_upload, '1Mbps')
  const forked = await secondsFor(fork.id, transfers.upload)
  assert.ok(forked >= LIMITED_SECONDS, `the fork took ${forked} s`)
  await instances().delete(fork.id)
  await instances().delete(slow)
})

test('a published port that a program listens on is refused, and nothing is left of the instance', { skip: rights }, async () => {
  await using taken = await listen('127.0.0.1')
  const network = { ports: [{ guest_port: 80, host_port: taken.port }] } as object
  await assert.rejects(instances().create({ ...small, name: 'taken', network }), (error) => codeOf(error) === 'port_in_use')
  const { host_port: used } = (await networkOf(first)).ports[0] ?? { host_port: 0 }
  const other = { ports: [{ guest_port: 80, host_port: used }] } as object
  await assert.rejects(instances().create({ ...small, name: 'taken', network: other }), (error) => codeOf(error) === 'port_in_use')
  assert.equal((await ownedByServer()).devices.length, 1)
})

test('a connection to its published port keeps a guest awake, and it sleeps when that is over', { skip: rights }, async () => {
  await instances().update(first, { auto_standby: { enabled: true, idle_timeout: '2s' } })
  const socket = connect({ host: '127.0.0.1', port: (await networkOf(first)).ports[0]?.host_port ?? 0 })
  await once(socket, 'connect')
  await until('it is seen', async () => (await instances().autoStandby.status(first)).active_inbound_connections === 1)
  assert.equal((await instances().autoStandby.status(first)).tracking_mode, 'host_conntrack')
  socket.resume().end()
  await once(socket, 'close')
  await until('it is in standby', async () => (await instances().get(first)).state === 'Standby', 120_000)
})

test('a guest begins on its device with a template that was made without one', { skip: rights }, async () => {
  await server.restart({ ...settings, TEMPLATES: 'true' })
  const body = { cmd: ['sleep', '1000'] }
  const cold = await runMachine(server, { name: 'cold', ...body })
  await until('a template is there', async () => (await readdir(dataLayout(server.dataDirectory).templates)).length === 1, 120_000)
  countVm('template')
  const warm = await runMachine(server, { name: 'warm', ...body })
  assert.ok((await eventsOf(server, warm)).some(({ flow, step }) => flow === 'instance.create' && step === 'load'))
  await using everywhere = await listen('0.0.0.0')
  for (const id of [cold, warm]) {
    const { ip } = await networkOf(id)
    assert.match(
      await shell(server, id, `ip addr show eth0; nc -w 5 ${GATEWAY} ${everywhere.port} </dev/null`),
      new RegExp(`inet ${ip}/24[^]*hello`),
    )
    await instances().delete(id)
  }
})

test('in user mode a limit is refused and says what to set', { skip: rights }, async () => {
  await server.restart({ NETWORK__MODE: 'user' })
  const network = { bandwidth_upload: '1Mbps' }
  await assert.rejects(instances().create({ ...small, name: 'no-limit', network }), (error) => {
    assert.equal(codeOf(error), 'not_supported')
    return error instanceof Error && /network\.mode/.test(error.message)
  })
  await server.restart()
})

test('when the last guest is gone and the server ends, the host has neither device nor rule of it', { skip: rights }, async () => {
  await instances().delete(first)
  assert.deepEqual((await ownedByServer()).devices, [])
  await server.stop()
  assert.deepEqual(await ownedByServer(), { devices: [], rules: [] })
})

const codeOf = (error: unknown): string | undefined => (error instanceof APIError ? (error.error as { code: string }).code : undefined)

const BYTES = 1024 ** 2
/** What that takes at 125 kB/s without its first burst, in seconds. */
const LIMITED_SECONDS = (BYTES - 64 * 1024) / 125_000

/** A port that sends bytes, and one that takes as many and then says how many came. */
async function serveBytes(): Promise<{ readonly port: number; readonly sink: number } & AsyncDisposable> {
  const sending = createServer((socket) => socket.end(Buffer.alloc(BYTES))).listen(0, '0.0.0.0')
  const taking = createServer((socket) => {
    let taken = 0
    socket.on('data', (bytes) => {
      taken += bytes.length
      if (taken >= BYTES) socket.end(`${taken}\n`)
    })
  }).listen(0, '0.0.0.0')
  await Promise.all([once(sending, 'listening'), once(taking, 'listening')])
  return {
    port: (sending.address() as AddressInfo).port,
    sink: (taking.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      for (const one of [sending, taking]) {
        one.close()
        await once(one, 'close')
      }
    },
  }
}

/** Has the host send what is for an address of a guest elsewhere. */
async function routeElsewhere(address: string): Promise<AsyncDisposable> {
  const change = async (verb: 'add' | 'del'): Promise<void> => {
    const { code, stderr } = await run('ip', ['route', verb, `${address}/32`, 'dev', 'lo'])
    assert.equal(code, 0, stderr)
  }
  await change('add')
  return { [Symbol.asyncDispose]: () => change('del') }
}

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
