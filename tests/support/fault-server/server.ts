// A real server process in which a test breaks what it wants, at the step or call that it wants, while the server runs.

import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { startServer, type TestServer } from '../server.ts'
import { standInProgram } from '../stand-in-hypervisor/program.ts'
import { clearReports, giveOrder, readReports, type Order, type Report } from './order.ts'

const main = path.join(import.meta.dirname, 'main.ts')
const assets = path.resolve(import.meta.dirname, '../../../.assets')

export interface FaultServer extends AsyncDisposable {
  readonly server: TestServer
  /** From the next step or call on; an earlier order is over. */
  order(order: Omit<Order, 'id'>): void
  /** Resolves when a step that the server takes by itself is over under the order, or the fault has come, or neither within a second. */
  reached(step: string): Promise<void>
  /** Ends the order; returns what happened under it. */
  rescind(): readonly Report[]
}

export interface FaultServerOptions {
  readonly on: 'stand-ins' | 'qemu'
  /** A temporary one by default. */
  readonly dataDirectory?: string | undefined
  /** Environment variables of the server, in place of the usual ones. */
  readonly settings?: Readonly<Record<string, string>> | undefined
}

const REACHED_WITHIN_MS = 1_000

/** Short, so that a guest that will never answer costs a test little. */
const limits = { TIMEOUTS__BOOT: '5s', TIMEOUTS__RESTORE: '5s', TIMEOUTS__STOP: '1s', TIMEOUTS__LOCK: '10s' }
/** So that a schedule runs while a test looks. */
const schedules = { SNAPSHOTS__SHORTEST_INTERVAL: '1s' }

export async function startFaultServer({ on, dataDirectory, settings = {} }: FaultServerOptions): Promise<FaultServer> {
  await using undo = new AsyncDisposableStack()
  const home = await mkdtemp(path.join(os.tmpdir(), 'hypeman-orders-'))
  undo.defer(() => rm(home, { recursive: true }))
  const standIns =
    on === 'qemu' ? {} : { HYPEMAN_STAND_IN: await standInProgram(), ASSETS_DIR: await smallAssets(path.join(home, 'assets')), ...limits }
  const program = { command: process.execPath, args: ['--max-semi-space-size=4', main] }
  const server = await startServer(
    {
      HYPEMAN_FAULT_ORDERS: home,
      ...schedules,
      ...standIns,
      ...(dataDirectory === undefined ? {} : { DATA_DIR: dataDirectory }),
      ...settings,
    },
    program,
  )
  const owned = undo.move()
  let last = 0
  const give = (order: Omit<Order, 'id'>): void => giveOrder(home, { id: (last += 1), ...order })
  return {
    server,
    order(order) {
      clearReports(home)
      give(order)
    },
    async reached(step) {
      const deadline = performance.now() + REACHED_WITHIN_MS
      const isOver = (): boolean =>
        readReports(home, last).some(({ kind, what }) => kind === 'struck' || (kind === 'passed' && what === step))
      while (!isOver() && performance.now() < deadline) await delay(5)
    },
    rescind() {
      const reports = readReports(home, last)
      give({ at: 'nowhere', what: 'throw', lasting: false, spared: [] })
      return reports
    },
    async [Symbol.asyncDispose]() {
      give({ at: 'nowhere', what: 'throw', lasting: false, spared: [] })
      await server[Symbol.asyncDispose]()
      await owned.disposeAsync()
    },
  }
}

/** The base image, and no kernel to speak of: stand-ins have no use for one, and every start of the server reads it. */
async function smallAssets(directory: string): Promise<string> {
  await mkdir(directory)
  for (const name of ['vmlinuz', 'initrd.cpio']) await writeFile(path.join(directory, name), name)
  await cp(path.join(assets, 'base.oci.tar'), path.join(directory, 'base.oci.tar'))
  return directory
}
