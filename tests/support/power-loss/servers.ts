// The servers that look at what a loss of power has left, by their process (series.ts).

import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { Hypeman } from '@onkernel/hypeman'
import { signToken } from '../../../src/platform/token.ts'
import { killVmms } from '../vmm.ts'
import type { Server } from './observe.ts'

/** Level of errors in the log. */
const ERROR = 50

/** Disposing ends it and its VMMs. */
export interface SurvivingServer extends Server, AsyncDisposable {
  /** Ends the server and returns what it has logged as an error. */
  complaints(): Promise<string[]>
}

interface Told {
  readonly msg?: string
  readonly level?: number
  readonly url?: string
  readonly error?: string
}

export class Servers implements AsyncDisposable {
  readonly #process: ChildProcess
  readonly #lines: AsyncIterator<string>

  private constructor(process: ChildProcess, lines: AsyncIterator<string>) {
    this.#process = process
    this.#lines = lines
  }

  /** `settings` are environment variables. */
  static start(settings: Readonly<Record<string, string>>): Servers {
    const child = spawn(process.execPath, ['--max-semi-space-size=4', path.join(import.meta.dirname, 'series.ts')], {
      env: { ...process.env, ...settings },
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    return new Servers(child, createInterface({ input: child.stdout })[Symbol.asyncIterator]())
  }

  /** Serves a data directory; an error says why that can't be. */
  async serve(dataDirectory: string): Promise<SurvivingServer> {
    const log: Told[] = []
    this.#process.stdin?.write(`${dataDirectory}\n`)
    const { url, error } = await this.#until(['listening', 'ended'], log)
    if (url === undefined) {
      await killVmms({ dataDirectory })
      throw new Error(`the server does not start: ${error ?? 'it did not say why'}`)
    }
    const secret = (await readFile(path.join(dataDirectory, 'jwt-secret'), 'utf8')).trim()
    const token = signToken(secret, { subject: 'tests', ttlSeconds: 3_600 })
    let ended = false
    const end = async (): Promise<void> => {
      if (ended) return
      ended = true
      this.#process.stdin?.write('\n')
      await this.#until(['ended'], log)
    }
    return {
      dataDirectory,
      url,
      token,
      client: new Hypeman({ baseURL: url, apiKey: token, maxRetries: 0, timeout: 60_000 }),
      async complaints() {
        await end()
        return log.filter(({ level = 0 }) => level >= ERROR).map((line) => JSON.stringify(line))
      },
      async [Symbol.asyncDispose]() {
        try {
          await end()
        } finally {
          await killVmms({ dataDirectory })
        }
      },
    }
  }

  /** Reads what is told until one of the messages came. */
  async #until(messages: readonly string[], log: Told[]): Promise<Told> {
    for (;;) {
      const line = await this.#lines.next()
      if (line.done === true) throw new Error(`the servers' process has ended: ${JSON.stringify(log)}`)
      const told = JSON.parse(line.value) as Told
      log.push(told)
      if (told.msg !== undefined && messages.includes(told.msg)) return told
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.stdin?.end('\n')
    if (this.#process.exitCode === null && this.#process.signalCode === null) await once(this.#process, 'exit')
  }
}
