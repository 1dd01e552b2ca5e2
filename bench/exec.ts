// S12: a command in a guest, over the API and by its agent directly: two forks of one snapshot, one run by the server and one by hand.

import { openExec } from '../src/client/exec.ts'
import type { AgentClient } from '../src/agent/contract.ts'
import type { TestServer } from '../tests/support/server.ts'
import { forkByHand } from './floor.ts'
import { ratioRow, timed, type Bench, type Row } from './measure.ts'
import { settle, sourceOf } from './source.ts'

const LIMIT = 1.3
const LIMIT_MS = 60_000
/** Of each, not counted: a guest that was just forked translates its code again. */
const WARM_UPS = 3
/** Runs are short and vary by half: there are so many times more of them. */
const SERIES = 3

export async function measureExec(bench: Bench): Promise<Row[]> {
  const { server, runs, say } = bench
  await using source = await sourceOf(bench, 'exec', '256MB')
  const { id } = await server.client.snapshots.fork(source.snapshotId, { name: 'executing' })
  await using _fork = { [Symbol.asyncDispose]: async () => server.client.instances.delete(id) }
  await using hand = await forkByHand(source.layout, source.spec, source.payload)
  // A snapshot's programs stand still, and what is to be started waits until they go on.
  await hand.agent.thaw(AbortSignal.timeout(LIMIT_MS))
  await settle(server, id)
  const [ours, floors]: [number[], number[]] = [[], []]
  const wanted = runs * SERIES
  for (let run = 1 - WARM_UPS; run <= wanted; run += 1) {
    floors.push(await timed(() => directly(hand.agent)))
    ours.push(await timed(() => overApi(server, id)))
    if (run % SERIES === 0) say(`exec: run ${run} of ${wanted}`)
  }
  return [ratioRow('S12', 'exec of true over the API', LIMIT, ours.slice(WARM_UPS), floors.slice(WARM_UPS), `≤ ${LIMIT} × agent`)]
}

async function directly(agent: AgentClient): Promise<void> {
  const request = { argv: ['true'], tty: false, env: {}, cwd: '', user: '', timeoutMs: 0, rows: 24, cols: 80 }
  const limit = AbortSignal.timeout(LIMIT_MS)
  const session = await agent.exec(request, limit)
  limit.addEventListener('abort', () => session.hangUp())
  for await (const { data } of session.output) throw new Error(`true said ${data.toString()}`)
  const { exitCode } = await session.exit
  if (exitCode !== 0) throw new Error(`true ended with ${exitCode}`)
}

async function overApi(server: TestServer, id: string): Promise<void> {
  const endpoint = { baseUrl: server.url, token: server.token }
  using exec = await openExec(endpoint, id, { command: ['true'], tty: false }, AbortSignal.timeout(LIMIT_MS))
  for await (const one of exec.outputs()) if (one.kind !== 'exit' || one.exitCode !== 0) throw new Error('true failed')
}
