// A real guest whose agent does not answer for a while: what asks it is answered in its time, and all is well when the agent goes on.

import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { after, before, test } from 'node:test'
import { APIError } from '@onkernel/hypeman'
import { runMachine, shell } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { until } from '../support/until.ts'

const server = await startServer()
after(() => server[Symbol.asyncDispose]())
const { instances } = server.client

const LIMIT_MS = 120_000
/** How long the server waits for an agent that is asked to stat, and for the guest's own numbers, in milliseconds. */
const [STAT_LIMIT_MS, STATS_LIMIT_MS] = [10_000, 3_000]
/** What an answer may take longer than its limit on a host that is busy, in milliseconds. */
const SLACK_MS = 10_000

/** Freezes the agent, which is process 1, when somebody connects to port 80, and lets it go on when somebody does it once more. Says each time which it is. */
const freezing = [
  'mkdir -p /sys/fs/cgroup/ice',
  'echo 1 >/sys/fs/cgroup/ice/cgroup.procs',
  'echo freeze | nc -l -p 80 >/dev/null',
  'echo 1 >/sys/fs/cgroup/ice/cgroup.freeze',
  'echo thaw | nc -l -p 80 >/dev/null',
  'echo 0 >/sys/fs/cgroup/ice/cgroup.freeze',
  'exec sleep 100000',
].join('; ')

let id = ''
before(async () => {
  id = await runMachine(server, { name: 'freezes', cmd: ['/bin/sh', '-c', freezing], network: { ports: [{ guest_port: 80 }] } as object })
})

async function timed<T>(act: () => Promise<T>): Promise<{ readonly result: T; readonly ms: number }> {
  const start = performance.now()
  return { result: await act(), ms: performance.now() - start }
}

/** Resolves when the guest has heard it. */
const tell = (what: 'freeze' | 'thaw'): Promise<void> => until(`it is told to ${what}`, async () => (await knock()) === what, LIMIT_MS)

/** What the guest says to who connects; nothing while nobody listens there. */
async function knock(): Promise<string> {
  const { network } = (await instances.get(id)) as { readonly network?: { readonly ports?: readonly { readonly host_port: number }[] } }
  const socket = connect({ host: '127.0.0.1', port: network?.ports?.[0]?.host_port ?? assert.fail('no port is published') })
  try {
    return (await text(socket)).trim()
  } catch {
    return '' // the connection was reset, since nobody listens yet
  }
}

test('stats of a guest whose agent is mute are those of the host, stat is answered 503, both in their time; and the guest is as it was afterwards', async () => {
  const well = await instances.stats(id)
  assert.equal((await instances.stat(id, { path: '/tmp' })).is_dir, true)
  await tell('freeze')
  const traffic = async (): Promise<number> => (await instances.stats(id)).network_tx_bytes
  await until('the agent is mute', async () => (await traffic()) === 0, LIMIT_MS)

  const { result: stats, ms: statsMs } = await timed(() => instances.stats(id))
  assert.ok(statsMs >= STATS_LIMIT_MS - 50 && statsMs < STATS_LIMIT_MS + SLACK_MS, `${statsMs} ms`)
  assert.deepEqual([stats.network_rx_bytes, stats.network_tx_bytes], [0, 0])
  assert.ok(stats.memory_rss_bytes > 2 ** 20 && stats.cpu_seconds >= well.cpu_seconds)

  const { result: refusal, ms: statMs } = await timed(async () => {
    try {
      return await instances.stat(id, { path: '/tmp' })
    } catch (error) {
      return error
    }
  })
  assert.ok(refusal instanceof APIError, JSON.stringify(refusal))
  assert.deepEqual([refusal.status, (refusal.error as { code: string }).code], [503, 'guest_unreachable'])
  assert.match(refusal.message, /the guest agent of freezes did not answer within 10 s/)
  assert.ok(statMs >= STAT_LIMIT_MS - 50 && statMs < STAT_LIMIT_MS + SLACK_MS, `${statMs} ms`)
  assert.equal((await instances.get(id)).state, 'Running')

  await tell('thaw')
  await until('the agent answers again', async () => (await traffic()) > 0, LIMIT_MS)
  assert.equal((await instances.stat(id, { path: '/tmp' })).is_dir, true)
  assert.equal(await shell(server, id, 'echo well'), 'well')
})
