// A server as it is by default, which loads forks ahead (docs/operating.md). The bench's own server doesn't, so that rows are not measured beside work in the background.

import { loadConfig } from '../src/platform/config.ts'
import { startServer, type TestServer } from '../tests/support/server.ts'
import { until } from '../tests/support/until.ts'

/** How many forks are loaded ahead by default. */
export async function defaultSpares(): Promise<number> {
  return (await loadConfig({}, {})).snapshots.spares
}

export async function startLoadingAhead(): Promise<TestServer> {
  return startServer({ SNAPSHOTS__SPARES: String(await defaultSpares()) })
}

/** Waits until at least so many are loaded. */
export async function untilLoadedAhead(server: TestServer, wanted: number): Promise<void> {
  await until(`${wanted} forks are loaded ahead`, async () => {
    const answer = await fetch(`${server.url}/metrics`, { headers: { authorization: `Bearer ${server.token}` } })
    return Number(/^hypeman_forks_loaded_ahead (\d+)$/m.exec(await answer.text())?.[1]) >= wanted
  })
}
