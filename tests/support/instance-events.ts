// The events of an instance so far, as the server streams them.

import type { TestServer } from './server.ts'

export interface SeenEvent {
  readonly flow?: string
  readonly step?: string
  readonly type?: string
  readonly status?: string
  readonly message?: string
  readonly note?: string
  readonly warning?: string
  /** Why the step failed. */
  readonly error?: string
  /** What it took, in milliseconds. */
  readonly ms?: number
}

export async function eventsOf(server: Pick<TestServer, 'url' | 'token'>, instance: string): Promise<SeenEvent[]> {
  const response = await fetch(`${server.url}/instances/${instance}/events`, { headers: { authorization: `Bearer ${server.token}` } })
  return (await response.text())
    .split('\n')
    .filter((line) => line.startsWith('data: '))
    .map((line) => JSON.parse(line.slice('data: '.length)) as SeenEvent)
}
