// What the tests write into guests and read back, for stand-ins and for real machines.

import assert from 'node:assert/strict'
import { shell, small, untilRunning } from '../machine.ts'
import type { TestServer } from '../server.ts'
import { ask, contentOf, standIn } from '../stand-in-hypervisor/server.ts'

export interface Content {
  readonly memory: string
  readonly disk: string
}

type Address = Pick<TestServer, 'url' | 'token' | 'client'>

export interface Guests {
  /** The smallest machine. */
  readonly machine: { readonly image: string; readonly size: string; readonly vcpus: number; readonly overlay_size: string }
  untilRunning(server: Address, id: string): Promise<void>
  write(server: Address, id: string, content: Content): Promise<void>
  /** Returns when what is on the guest's disk outlasts a loss of power, as the guest's sync(2) does. */
  sync(server: Address, id: string): Promise<void>
  /** What was written, and the name that the guest takes for its own. */
  read(server: Address, id: string): Promise<Content & { readonly hostname: string }>
}

export const standInGuests: Guests = {
  machine: standIn,
  async untilRunning(server, id) {
    const { state, state_error: reason } = await server.client.instances.wait(id, { state: 'Running', timeout: '1m' })
    assert.equal(state, 'Running', reason ?? 'no reason given')
  },
  async write(server, id, { memory, disk }) {
    await succeed(server, id, ['memory', memory])
    await succeed(server, id, ['disk', disk])
  },
  sync: (server, id) => succeed(server, id, ['sync']),
  async read(server, id) {
    const { memory, disk } = await contentOf(server, id)
    return { memory: memory.content, disk, hostname: memory.instance_id === id ? memory.hostname : `that of ${memory.instance_id}` }
  },
}

export const realGuests: Guests = {
  machine: small,
  untilRunning,
  async write(server, id, { memory, disk }) {
    await shell(server, id, `printf %s '${memory}' > /run/content && printf %s '${disk}' > /root/content`)
  },
  async sync(server, id) {
    await shell(server, id, 'sync')
  },
  async read(server, id) {
    const output = await shell(server, id, 'hostname; cat /run/content 2>/dev/null; echo; cat /root/content 2>/dev/null; true')
    const [hostname = '', memory = '', disk = ''] = output.split('\n')
    return { memory, disk, hostname }
  },
}

async function succeed(server: Address, id: string, command: readonly string[]): Promise<void> {
  const { output, exitCode } = await ask(server, id, command)
  if (exitCode !== 0) throw new Error(`${command.join(' ')} in ${id} ended with ${exitCode}: ${output}`)
}
