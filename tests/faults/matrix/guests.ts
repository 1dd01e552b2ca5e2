// What a guest has, on stand-ins and on QEMU alike: a line of memory and a line of disk.

import { shell, small } from '../../support/machine.ts'
import type { TestServer } from '../../support/server.ts'
import { ask, contentOf, standIn } from '../../support/stand-in-hypervisor/server.ts'

export interface Content {
  readonly memory: string
  readonly disk: string
}

export interface Guests {
  /** What a machine is created from. */
  readonly body: typeof standIn | typeof small
  write(server: TestServer, id: string, content: Content): Promise<void>
  read(server: TestServer, id: string): Promise<Content>
  /** Ends its program, and with it the machine, otherwise than in peace. */
  fail(server: TestServer, id: string): Promise<void>
}

export const standInGuests: Guests = {
  body: standIn,
  async write(server, id, { memory, disk }) {
    await ask(server, id, ['memory', memory])
    await ask(server, id, ['disk', disk])
  },
  async read(server, id) {
    const { memory, disk } = await contentOf(server, id)
    return { memory: memory.content, disk }
  },
  fail: (server, id) => broken(ask(server, id, ['exit', '1'])),
}

/** Memory is a file of a file system in memory, with a program that waits beside it. */
export const qemuGuests: Guests = {
  body: small,
  async write(server, id, { memory, disk }) {
    await shell(server, id, `echo ${memory} > /run/memory; echo ${disk} > /root/disk; sync`)
  },
  async read(server, id) {
    const [memory = '', disk = ''] = (
      await shell(server, id, 'cat /run/memory 2>/dev/null || echo; cat /root/disk 2>/dev/null || echo')
    ).split('\n')
    return { memory, disk }
  },
  // The brackets keep the pattern from finding the command that looks for it.
  fail: (server, id) => broken(shell(server, id, "sync; pkill -9 -f '[b]ase is up'")),
}

/** Who ends the machine that it runs in hears no more of it: whether it ended is for others to see. */
async function broken(asking: Promise<unknown>): Promise<void> {
  await Promise.allSettled([asking])
}
