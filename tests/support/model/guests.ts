// The guests that the model's clients look into: those of stand-ins, and real ones.

import { UnreachableError } from '../../../src/client/errors.ts'
import { ask, standIn, type GuestContent } from '../stand-in-hypervisor/server.ts'
import { runIn, small } from '../machine.ts'
import type { Guests, Ran } from './clients.ts'

export const standInGuests: Guests = {
  body: standIn,
  async read(server, id, limitMs) {
    const ran = await command(() => ask(server, id, ['all'], limitMs))
    if (!ran.ok) return ran
    const { memory, disk } = JSON.parse(ran.value) as GuestContent
    const { content, instance_id: instance, hostname, random, machine_id: machineId, mac } = memory
    return { ok: true, value: { memory: content, disk, identity: { instance, hostname, random, machineId, mac } } }
  },
  write: (server, id, to, text, limitMs) => command(() => ask(server, id, [to, text], limitMs)),
  writesAlone: false,
}

const places = { memory: '/run/model', disk: '/root/model' } as const

/** Real machines: memory is a file that lies in memory, disk one that is synced to the disk. */
export const realGuests: Guests = {
  body: small,
  async read(server, id) {
    const ran = await command(() =>
      runIn(
        server,
        id,
        Object.values(places)
          .map((file) => `cat ${file} 2>/dev/null; echo`)
          .join('; '),
      ),
    )
    if (!ran.ok) return ran
    const [memory = '', disk = ''] = ran.value.split('\n')
    return { ok: true, value: { memory, disk } }
  },
  async write(server, id, to, text) {
    const file = places[to]
    const ran = await command(() => runIn(server, id, `set -e; echo -n ${text} > ${file}.new; sync; mv ${file}.new ${file}; sync`))
    return ran.ok ? { ok: true, value: undefined } : ran
  },
  writesAlone: true,
}

/** A connection that breaks is the end of the command's, not of the test. */
async function command(act: () => Promise<{ readonly output: string; readonly exitCode: number }>): Promise<Ran<string>> {
  try {
    const { output, exitCode } = await act()
    return exitCode === 0 ? { ok: true, value: output } : { ok: false, message: output.trim() }
  } catch (error) {
    if (error instanceof UnreachableError) return { ok: false, message: error.message }
    throw error
  }
}
