// A world for one test file: made when it is first needed, and made anew after a failure, which says nothing about the next case then.

import path from 'node:path'
import { allocatePorts } from '../../../src/networks/index.ts'
import { startFaultServer, type FaultServerOptions } from '../../support/fault-server/server.ts'
import { qemuGuests, standInGuests } from './guests.ts'
import { dropShared } from './scenarios.ts'
import { World } from './world.ts'

/** A regular expression: only cases whose line matches it (docs/development.md). */
const only = process.env['HYPEMAN_FAULTS_ONLY']

/** Somebody looks for certain cases. */
export const areChosen = only !== undefined

/** Each single call of every flow in every way, which takes hours (docs/development.md). */
export const isEveryCall = process.env['HYPEMAN_FAULTS_EVERY_CALL'] === '1'

export function isWanted(line: string): boolean {
  return only === undefined || new RegExp(only).test(line)
}

/** A server beside this one may have the same addresses for its guests. */
async function ownProxy(): Promise<Readonly<Record<string, string>>> {
  using free = await allocatePorts([{ guestPort: 1, hostPort: 0, protocol: 'tcp', hostAddress: '0.0.0.0', automatic: true }])
  return { NETWORK__EGRESS_PORT: String(free.ports[0]?.hostPort) }
}

export class Stage implements AsyncDisposable {
  readonly #on: FaultServerOptions['on']
  readonly #below: string | undefined
  #world: World | undefined
  #worlds = 0

  /** Data directories are made below a directory that is given, or are temporary ones. */
  constructor(on: FaultServerOptions['on'] = 'stand-ins', below?: string) {
    this.#on = on
    this.#below = below
  }

  async world(): Promise<World> {
    if (this.#world !== undefined) return this.#world
    this.#worlds += 1
    const dataDirectory = this.#below === undefined ? undefined : path.join(this.#below, `data-${this.#worlds}`)
    const faults = await startFaultServer({ on: this.#on, dataDirectory, settings: await ownProxy() })
    this.#world = new World(faults, this.#on === 'qemu' ? qemuGuests : standInGuests)
    await this.#world.furnish()
    return this.#world
  }

  /** The failure of the case, with what the server said. The world is of no use any more. */
  async explain(error: unknown): Promise<Error> {
    const world = this.#world
    this.#world = undefined
    const log =
      (await world?.server.log())
        ?.split('\n')
        .filter((line) => !line.includes('"msg":"request"'))
        .slice(-15)
        .join('\n') ?? ''
    // What is broken may not even be taken down; then the run of the tests finds what is left.
    const rest = await world?.faults[Symbol.asyncDispose]().then(
      () => '',
      (failure: unknown) => `\nand the server could not be taken down: ${String(failure)}`,
    )
    const what = error instanceof Error ? error.message : String(error)
    const text = `${what}${rest ?? ''}\nThe server's log ends with:\n${log}`
    // The run tells failures at its end, which may be long after.
    console.log(`✖ ${text}`)
    return new Error(text, { cause: error })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#world?.faults[Symbol.asyncDispose]()
    await dropShared()
  }
}
