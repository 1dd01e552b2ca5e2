// What rows start from: a guest that has booted and settled, with a snapshot of it, and what it takes to run that snapshot by hand.

import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { dataLayout, imageFiles, snapshotFiles, type DataLayout } from '../src/files/layout.ts'
import { digestHex } from '../src/images/index.ts'
import { kernelOf } from '../src/kernels/index.ts'
import { cpuTicksOf } from '../src/platform/process.ts'
import { snapshotFormat } from '../src/snapshots/record.ts'
import type { TestServer } from '../tests/support/server.ts'
import { vmmOf } from '../tests/support/vmm.ts'
import type { BareSpec, HandRun } from './floor.ts'
import type { Bench } from './measure.ts'

const OVERLAY = '1GB'
export const OVERLAY_BYTES = 1024 ** 3

export interface Source extends AsyncDisposable {
  readonly instanceId: string
  readonly snapshotId: string
  readonly payload: string
  readonly spec: BareSpec
  readonly layout: DataLayout
}

type OnServer = Pick<Bench, 'server' | 'say'>

/** A running instance with a snapshot of it. */
export async function sourceOf({ server, say }: OnServer, name: string, size: string): Promise<Source> {
  say(`boot ${name}, ${size}`)
  const instanceId = await create(server, name, size)
  await settle(server, instanceId)
  const { id: snapshotId } = await server.client.instances.snapshots.create(name, { kind: 'Standby' })
  const layout = dataLayout(server.dataDirectory)
  const directory = layout.snapshot(snapshotId)
  const { instance } = await snapshotFormat.read(path.join(directory, snapshotFiles.record))
  const { kernel, initrd } = kernelOf(layout, instance.kernelId)
  const spec: BareSpec = {
    instanceId: instance.id,
    vcpus: instance.vcpus,
    memoryMib: instance.memoryBytes / 1024 ** 2,
    kernel,
    initrd,
    disks: [{ id: 'rootfs', path: path.join(layout.image(digestHex(instance.image.digest)), imageFiles.rootfs), readOnly: true }],
    diskBytesPerSecond: null,
    network: instance.network === null ? null : { kind: 'user', mac: instance.network.mac, ports: [] },
  }
  return {
    instanceId,
    snapshotId,
    payload: path.join(directory, snapshotFiles.payload),
    spec,
    layout,
    async [Symbol.asyncDispose]() {
      await server.client.instances.delete(name)
      await server.client.snapshots.delete(snapshotId)
    },
  }
}

/** Returns the instance's id when its agent has answered. */
export async function create(server: TestServer, name: string, size: string): Promise<string> {
  const { id } = await server.client.instances.create({ name, image: 'hypeman/base', size, vcpus: 1, overlay_size: OVERLAY })
  const { state } = await server.client.instances.wait(name, { state: 'Running', timeout: '2m' })
  if (state !== 'Running') throw new Error(`${name} is ${state}`)
  return id
}

const IDLE_LOOK_MS = 500
/** Clock ticks of a VMM in that time that count as idle. */
const IDLE_TICKS = 3
/** After that a guest is taken as it is. */
const SETTLE_LIMIT_MS = 120_000

/** Waits until a guest that has just booted is idle: what it still has to do, each fork of its snapshot would do again, and a large guest has more of it. */
export async function settle(server: TestServer, instanceId: string): Promise<void> {
  const pid = vmmOf(server, instanceId)
  const deadline = performance.now() + SETTLE_LIMIT_MS
  for (let before = Number.NEGATIVE_INFINITY; performance.now() < deadline;) {
    const ticks = cpuTicksOf(pid)
    if (ticks === undefined || ticks - before <= IDLE_TICKS) return
    before = ticks
    await delay(IDLE_LOOK_MS)
  }
}

export async function readyMsOf(running: Promise<HandRun>): Promise<number> {
  await using run = await running
  return run.readyMs
}
