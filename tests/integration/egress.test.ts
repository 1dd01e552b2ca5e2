// Guests whose way out is the host's proxy: what they reach by it, what not, that nothing goes past it, and that all of this holds for forks, over standby, and without the server.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import { after, test } from 'node:test'
import { APIError } from '@onkernel/hypeman'
import { hostConnections } from '../../src/networks/index.ts'
import { devicesBelow, hasHostNetwork, rulesBelow } from '../support/host-network.ts'
import { runIn, runMachine, shell, small } from '../support/machine.ts'
import { OUTSIDE, startOutside } from '../support/outside/world.ts'
import { startServer } from '../support/server.ts'
import { until } from '../support/until.ts'
import { countVm } from '../support/vm-count.ts'

const skip = hasHostNetwork ? false : 'needs root and /dev/net/tun: devices and rules of the host'
const GATEWAY = '10.217.0.1'
const PROXY_PORT = 4974
const settings = { NETWORK__SUBNET_CIDR: '10.217.0.0/24', NETWORK__DNS_SERVER: OUTSIDE }
const outside = hasHostNetwork ? await startOutside() : undefined
after(() => outside?.[Symbol.asyncDispose]())
const server = await startServer(settings)
after(() => server[Symbol.asyncDispose]())

const instances = () => server.client.instances

/** Asks for an address, or whatever else; the answer with its headers. busybox's own wget looks up services by libraries that its image has not. */
const ask = (line: string, to: string): string => `nc -w 20 ${to} -e /bin/sh -c "printf '${line}\\r\\n\\r\\n'; cat >&2" 2>&1`
/** The proxy that the environment names. */
const proxy = '$(echo ${http_proxy#http://} | tr : " ")'
const byProxy = (url: string): string => ask(`GET ${url} HTTP/1.0`, proxy)
const directly = (address: string, port: number): string => ask('GET / HTTP/1.0', `${address} ${port}`)

/** Tells by its web server, which needs no server of ours, whether it gets out by the proxy, and directly. */
const program = `
  mkdir -p /www
  while :; do
    by_proxy=none; (${byProxy('http://web.outside.test/')}) | grep -q outside && by_proxy=out
    direct=none; (${directly(OUTSIDE, 80)}) | grep -q outside && direct=out
    echo "proxy $by_proxy, direct $direct" > /www/new && mv /www/new /www/index.html
    sleep 1
  done &
  exec httpd -f -p 80 -h /www`
const mediated = (mode?: 'all' | 'http_https_only'): object => ({
  egress: { enabled: true, ...(mode === undefined ? {} : { enforcement: { mode } }) },
  ports: [{ guest_port: 80 }],
})

const first = hasHostNetwork ? await runMachine(server, { name: 'first', cmd: ['/bin/sh', '-c', program], network: mediated() }) : ''

interface Published {
  readonly ports: readonly { readonly host_port: number }[]
}
const pageOf = async (port: number): Promise<string> => (await (await fetch(`http://127.0.0.1:${port}/`)).text()).trim()
const portOf = async (id: string): Promise<number> => ((await instances().get(id)).network as unknown as Published).ports[0]?.host_port ?? 0
const untilSays = (port: number, what: string): Promise<void> =>
  until(`the guest says: ${what}`, async () => (await pageOf(port).catch(() => '')) === what, 120_000)

/** Those that are open at the proxy's end. */
const connectionsToProxy = async (): Promise<number> =>
  (await hostConnections(new Set([PROXY_PORT]))).filter(({ local, endedMs }) => local.address === GATEWAY && endedMs === null).length

const egressOf = async (id: string): Promise<unknown> => ((await instances().get(id)).network as { readonly egress?: unknown }).egress

/** By the proxy it gets out, and past it, it does not. */
async function assertMediated(id: string): Promise<void> {
  assert.match(await shell(server, id, byProxy('http://web.outside.test/')), / 200 [^]*outside/)
  const direct = await runIn(server, id, directly(OUTSIDE, 80))
  assert.match(direct.output, /refused/i)
  assert.notEqual(direct.exitCode, 0)
}

test(
  'a guest learns of the proxy by its environment, gets out by it, and is refused at once whatever TCP it tries else',
  { skip },
  async () => {
    assert.deepEqual(await egressOf(first), { enabled: true, enforcement: { mode: 'all' } })
    const url = `http://${GATEWAY}:${PROXY_PORT}`
    assert.equal(await shell(server, first, 'echo $http_proxy $HTTPS_PROXY $no_proxy'), `${url} ${url} localhost,127.0.0.1,${GATEWAY}`)
    await assertMediated(first)
    await using host = await listening('0.0.0.0')
    for (const [address, port] of [
      [OUTSIDE, 8080],
      [OUTSIDE, 53],
      [GATEWAY, host.port],
    ] as const)
      assert.match((await runIn(server, first, directly(address, port))).output, /refused/i, `${address}:${port}`)
    assert.match(
      await shell(server, first, 'nslookup web.outside.test'),
      new RegExp(OUTSIDE.replaceAll('.', '\\.')),
      'names are asked for by UDP',
    )
  },
)

test('a tunnel leads where somebody listens', { skip }, async () => {
  const through = `CONNECT web.outside.test:8080 HTTP/1.1\\r\\n\\r\\nGET / HTTP/1.0`
  assert.match(await shell(server, first, ask(through, proxy)), /^HTTP\/1.1 200 [^]* 200 [^]*outside/)
  assert.match(await shell(server, first, ask(`CONNECT ${OUTSIDE}:9 HTTP/1.1`, proxy)), / 502 /)
})

test('the proxy does not lead to the host, to guests, or to what hosts alone may ask, also not by a name', { skip }, async () => {
  await using host = await listening('0.0.0.0')
  const { network } = await instances().get(first)
  for (const target of ['inside.outside.test', '127.0.0.1', GATEWAY, '198.18.77.1', network?.ip, '169.254.169.254', '0.0.0.0'])
    assert.match((await runIn(server, first, byProxy(`http://${target}:${host.port}/`))).output, / 403 /, target ?? 'no address')
  assert.equal(host.taken(), 0)
})

test('the proxy answers none but guests that have it as their way out', { skip }, async () => {
  const other = await runMachine(server, { name: 'other', cmd: ['sleep', '1000'], network: { bandwidth_upload: '1Gbps' } })
  assert.match((await runIn(server, other, directly(GATEWAY, PROXY_PORT))).output, /refused/i)
  assert.match(await shell(server, other, directly(OUTSIDE, 80)), / 200 [^]*outside/)
  assert.equal(await egressOf(other), undefined)
  await instances().delete(other)
})

test('with http_https_only other ports are reached directly', { skip }, async () => {
  const web = await runMachine(server, { name: 'web', cmd: ['sleep', '1000'], network: mediated('http_https_only') })
  await assertMediated(web)
  assert.match((await runIn(server, web, directly(OUTSIDE, 443))).output, /refused/i)
  assert.match(await shell(server, web, directly(OUTSIDE, 8080)), / 200 [^]*outside/)
  await instances().delete(web)
})

test('a guest that was in standby, and a fork, have the way out that they had', { skip }, async () => {
  await untilSays(await portOf(first), 'proxy out, direct none')
  await shell(server, first, `nc ${GATEWAY} ${PROXY_PORT} -e sleep 1000 >/dev/null 2>&1 &`)
  await until('it has a connection to the proxy', async () => (await connectionsToProxy()) > 0)
  await instances().standby(first)
  assert.equal(await connectionsToProxy(), 0, 'none of a guest that sleeps')
  await instances().restore(first)
  await assertMediated(first)
  const snapshot = await instances().snapshots.create(first, { kind: 'Standby' })
  const fork = await server.client.snapshots.fork(snapshot.id, { name: 'fork' })
  countVm('fork')
  await assertMediated(fork.id)
  assert.deepEqual(await egressOf(fork.id), await egressOf(first))
  await untilSays(await portOf(fork.id), 'proxy out, direct none')
  await instances().delete(fork.id)
  await server.client.snapshots.delete(snapshot.id)
})

test('without the server there is no way out, and the next one opens it again', { skip }, async () => {
  const port = await portOf(first)
  await untilSays(port, 'proxy out, direct none')
  await server.crash()
  await untilSays(port, 'proxy none, direct none')
  await server.restart()
  await untilSays(port, 'proxy out, direct none')
  await assertMediated(first)
})

test('where guests can not be held to it, it is refused and said what to set', { skip }, async () => {
  await server.restart({ ...settings, NETWORK__MODE: 'user' })
  await assert.rejects(instances().create({ ...small, name: 'none', network: { egress: { enabled: true } } }), (error) => {
    assert.ok(error instanceof APIError)
    assert.deepEqual([(error.error as { code: string }).code, error.status], ['not_supported', 501])
    return /network\.egress.*network\.mode/.test(error.message)
  })
})

test('when the last guest is gone and the server ends, nothing of it is left on the host', { skip }, async () => {
  await instances().delete(first)
  await server.stop()
  const { dataDirectory } = server
  assert.deepEqual([await devicesBelow(dataDirectory), await rulesBelow(dataDirectory)], [[], []])
})

async function listening(address: string): Promise<{ readonly port: number; taken(): number } & AsyncDisposable> {
  let taken = 0
  const listener = createServer((socket) => {
    taken += 1
    socket.end('hello')
  }).listen(0, address)
  await once(listener, 'listening')
  return {
    port: (listener.address() as AddressInfo).port,
    taken: () => taken,
    async [Symbol.asyncDispose]() {
      listener.close()
      await once(listener, 'close')
    },
  }
}
