// Flow: make a template. A hidden machine is booted until its agent waits for its configuration, and frozen before anybody's reaches it.

import { mkdir, rename, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { HypemanError } from '../api/errors.ts'
import { instanceFiles, templateFiles } from '../files/layout.ts'
import { createStaged, stageRecord } from '../files/stage.ts'
import type { Hypervisor, Machine, MachineSpec, NetworkSpec } from '../hypervisors/driver.ts'
import { kernelOf } from '../kernels/index.ts'
import { loggedFlow, step } from '../platform/flow.ts'
import { newId, newMac } from '../platform/ids.ts'
import { cpuTicksOf } from '../platform/process.ts'
import type { InstanceContext } from './context.ts'
import { connectTo, driverOf, machineSizeOf, memoryOf } from './machine.ts'
import { sealMemory } from './saved-memory.ts'
import { keyOf, type TemplateKind, type TemplateRecord } from './template-record.ts'

/** A machine that takes more than this share of the free memory is not booted for a template alone. */
const MEMORY_SHARE = 0.5
/** A guest that has just booted has things to do, which every machine that begins with it would do again: it is given this long to be idle, in milliseconds. */
const SETTLE_LIMIT_MS = 10_000
const SETTLE_LOOK_MS = 250
/** Clock ticks in that time that count as idle: proc(5), 100 a second. */
const IDLE_TICKS = 2

/** Boots, freezes and keeps a guest of that kind. */
export async function makeTemplate(context: InstanceContext, kind: TemplateKind): Promise<void> {
  const { layout, templates, settings } = context
  if (templates === undefined) return
  const image = context.images.byDigest(kind.imageDigest)
  if (image === undefined) return // removed meanwhile
  if (kind.memoryBytes > os.freemem() * MEMORY_SHARE) throw new HypemanError('busy', 'the host has too little free memory for it')
  using _image = context.images.hold(kind.imageDigest)
  const key = keyOf(kind)
  const [driver, memory] = [driverOf(context, kind), memoryOf(context, kind)]
  const signal = AbortSignal.any([context.stopping, AbortSignal.timeout(settings.bootTimeoutMs)])
  using flow = loggedFlow(context, 'template.make', { template: key }, signal)

  await using undo = new AsyncDisposableStack()
  const staged = await step(flow, 'stage', async () => undo.use(await createStaged(layout, `template-${newId()}`)))
  const directory = path.join(staged.path, 'machine')
  const payload = path.join(staged.path, templateFiles.payload)
  await mkdir(path.join(directory, instanceFiles.logs), { recursive: true })
  await writeFile(path.join(directory, instanceFiles.consoleLog), '') // not every machine has a console
  await mkdir(payload)
  await step(flow, 'disk', () => driver.createDisk(directory, kind.overlayBytes))
  const id = newId()
  const network = kind.hasNetwork ? networkFor(context, driver, id) : null
  const spec: MachineSpec = {
    ...{ instanceId: id, directory, ...machineSizeOf(settings, kind), systemBytes: kind.overlayBytes },
    ...kernelOf(layout, kind.kernelId),
    disks: [{ id: 'rootfs', path: image.rootfsPath, readOnly: true }],
    // A limit is no part of the machine: each that begins with it sets its own.
    diskBytesPerSecond: null,
    network,
  }
  if (network?.kind === 'tap') {
    undo.defer(() => context.hostNetwork.detach(id))
    await step(flow, 'network', () =>
      context.hostNetwork.attach({ id, address: null, ports: [], egress: null, downloadBytesPerSecond: null, uploadBytesPerSecond: null }),
    )
  }
  const machine = await step(flow, 'boot', () => driver.boot(spec, signal))
  undo.defer(() => machine.kill())
  await step(flow, 'agent', () => untilItWaits(context, machine, signal))
  await step(flow, 'settle', () => untilIdle(machine, signal))
  await step(flow, 'freeze', async () => {
    await machine.pause()
    await memory.suspend(machine, spec, signal)
    await machine.kill()
    if (network?.kind === 'tap') await context.hostNetwork.detach(id)
  })
  const seals = await step(flow, 'share', async () => {
    await driver.share(directory, payload, true)
    await rename(path.join(directory, instanceFiles.consoleLog), path.join(staged.path, templateFiles.consoleLog))
    await rm(directory, { recursive: true })
    return sealMemory(context, kind, payload)
  })
  const record: TemplateRecord = { version: 2, createdAt: new Date().toISOString(), kind, seals }
  await step(flow, 'record', () => stageRecord(path.join(staged.path, templateFiles.record), record))
  await step(flow, 'commit', () => staged.commit(layout.template(key)))
  undo.move()
  templates.add(record)
  context.log.info({ template: key, image: image.name }, 'a template was made')
  await templates.tidy()
}

/** One that leads nowhere: nobody has told the guest of it. Devices are the same on all kinds of networks that a hypervisor has. */
function networkFor({ hostNetwork }: InstanceContext, { networks }: Hypervisor, id: string): NetworkSpec {
  return networks.includes('user')
    ? { kind: 'user', mac: newMac(), ports: [] }
    : { kind: 'tap', mac: newMac(), device: hostNetwork.deviceOf(id) }
}

async function untilItWaits(context: InstanceContext, machine: Machine, signal: AbortSignal): Promise<void> {
  const agent = await connectTo(machine, context, signal)
  try {
    const { workload } = await agent.health(signal)
    if (workload.state !== 'waiting') throw new Error(`its agent is ${workload.state} instead of waiting`)
  } finally {
    agent.close()
  }
}

async function untilIdle({ process }: Machine, signal: AbortSignal): Promise<void> {
  const deadline = performance.now() + SETTLE_LIMIT_MS
  for (let before = Number.NEGATIVE_INFINITY; performance.now() < deadline; await delay(SETTLE_LOOK_MS, undefined, { signal })) {
    const ticks = cpuTicksOf(process.pid)
    if (ticks === undefined || ticks - before <= IDLE_TICKS) return
    before = ticks
  }
}
