// Loads a fork of a snapshot before anybody asks for it (spares.ts): the part of a fork that does not depend on who asks.

import { mkdir } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { HypemanError } from '../api/errors.ts'
import { instanceFiles } from '../files/layout.ts'
import { createStaged } from '../files/stage.ts'
import { loggedFlow, step } from '../platform/flow.ts'
import { newId, newMac } from '../platform/ids.ts'
import type { InstanceContext } from './context.ts'
import type { ForkSource } from './fork.ts'
import { driverOf, memoryOf, specOf } from './machine.ts'
import type { InstanceRecord } from './record.ts'
import type { Spare } from './spares.ts'

/** One is made only where it leaves so many times its guest's memory free. */
const MEMORY_RESERVE = 2

/**
 * Whether forks of it can be loaded ahead: not where a fork's VMM is started with what is known only when it is asked for (published ports, a device of the host), or holds what others may
 * want to have for themselves (volumes), or its directory must keep its name.
 */
export function canBeSpare(context: InstanceContext, record: InstanceRecord): boolean {
  const { network, volumes } = record
  return (
    driverOf(context, record).memory?.movable === true &&
    volumes.length === 0 &&
    (network === null || (network.kind === 'user' && network.ports.length === 0))
  )
}

/** The caller sees to it that the payload stays meanwhile. */
export async function makeSpare(context: InstanceContext, { payload, record }: Pick<ForkSource, 'payload' | 'record'>): Promise<Spare> {
  const driver = driverOf(context, record)
  if (record.stamp === null) throw new HypemanError('invalid_state', 'the memory image does not say what wrote it')
  if (os.freemem() < MEMORY_RESERVE * record.memoryBytes) throw new HypemanError('busy', 'the host has too little free memory')
  const id = newId()
  using flow = loggedFlow(context, 'fork.prepare', { instance: id }, context.stopping)
  await using undo = new AsyncDisposableStack()
  // Its name is no longer than that of the directory that it becomes: sockets' paths are bounded.
  const staged = undo.use(await createStaged(context.layout, id))
  await mkdir(path.join(staged.path, instanceFiles.logs))
  await step(flow, 'materialise', () => driver.materialise(payload, staged.path, true))
  const mac = record.network === null ? null : newMac()
  const network = record.network === null || mac === null ? null : { ...record.network, mac }
  const spec = { ...specOf(context, { ...record, id, network }), directory: staged.path }
  const { stamp } = record
  const machine = await step(flow, 'load', async () => {
    const loaded = await memoryOf(context, record).restore(spec, stamp, flow.signal)
    undo.defer(() => loaded.kill())
    return loaded
  })
  const kept = undo.move()
  return { id, mac, staged, machine, [Symbol.asyncDispose]: () => kept.disposeAsync() }
}
