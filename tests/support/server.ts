// A real server as its own process on a data directory of its own, as a user would start it. Disposing it stops it, its VMs and removes its files.

import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { Hypeman } from '@onkernel/hypeman'
import { signToken } from '../../src/platform/token.ts'
import { run } from './command.ts'

/** How a server is started: the arguments come before those of the command line. */
export interface ServerProgram {
  readonly command: string
  readonly args: readonly string[]
}

const hypeman: ServerProgram = { command: path.resolve(import.meta.dirname, '../../bin/hypeman'), args: [] }
/** Until a started server says that it listens, in milliseconds. */
const START_LIMIT_MS = 60_000
/** Until a server that was told to end has ended, in milliseconds. */
const END_LIMIT_MS = 10_000
/** Longer than any run of tests or measurements. */
const TOKEN_LIFE_S = 86_400

export interface TestServer extends AsyncDisposable {
  readonly dataDirectory: string
  readonly url: string
  readonly token: string
  readonly client: Hypeman
  /** Environment for the command line against this server. */
  readonly environment: Readonly<Record<string, string>>
  readonly pid: number
  /** Ends the server process without warning; its VMs go on. */
  crash(): Promise<void>
  /** Ends it gracefully; its VMs go on. */
  stop(): Promise<void>
  /** Resolves when the server process has ended by itself. */
  died(): Promise<void>
  /** Starts it again on the same data directory (and another port), ending it first if it still runs; `settings` replace those it was started with. */
  restart(settings?: Readonly<Record<string, string>>): Promise<void>
  /** Tries to start another server on the same data directory and returns how that ended. */
  secondServer(): Promise<{ readonly code: number; readonly output: string }>
  /** What the server has logged so far. */
  log(): Promise<string>
}

/** Starts a server; `settings` are environment variables; with `DATA_DIR` the data directory is another than one of its own. */
export async function startServer(settings: Readonly<Record<string, string>> = {}, program = hypeman): Promise<TestServer> {
  const home = await mkdtemp(path.join(os.tmpdir(), 'hypeman-it-'))
  const dataDirectory = settings['DATA_DIR'] ?? path.join(home, 'data')
  const logFile = path.join(home, 'server.log')
  let running = await launch(program, dataDirectory, logFile, settings).catch(async (error: unknown) => {
    await rm(home, { recursive: true })
    throw error
  })
  let client = clientOf(running)

  const end = async (signal: NodeJS.Signals): Promise<void> => {
    if (hasEnded(running.child)) return
    running.child.kill(signal)
    await once(running.child, 'exit')
  }
  return {
    dataDirectory,
    get url() {
      return running.url
    },
    get token() {
      return running.token
    },
    get client() {
      return client
    },
    get environment() {
      return { HYPEMAN_BASE_URL: running.url, HYPEMAN_API_KEY: running.token, HOME: home }
    },
    get pid() {
      return running.child.pid ?? -1
    },
    crash: () => end('SIGKILL'),
    stop: () => end('SIGTERM'),
    async died() {
      if (!hasEnded(running.child)) await once(running.child, 'exit')
    },
    async restart(changed = settings) {
      await end('SIGTERM')
      running = await launch(program, dataDirectory, logFile, changed)
      client = clientOf(running)
    },
    async secondServer() {
      const { code, stdout, stderr } = await run(program.command, [...program.args, 'serve', '--data-dir', dataDirectory, '--port', '0'])
      return { code, output: stdout + stderr }
    },
    log: () => readFile(logFile, 'utf8'),
    async [Symbol.asyncDispose]() {
      await using undo = new AsyncDisposableStack()
      undo.defer(() => rm(home, { recursive: true }))
      undo.defer(() => end('SIGTERM'))
      const startAgain = async (): Promise<void> => {
        running = await launch(program, dataDirectory, logFile, settings)
        client = clientOf(running)
      }
      const removeInstances = async (): Promise<void> => {
        for (const instance of await client.instances.list()) await client.instances.delete(instance.id)
      }
      if (hasEnded(running.child)) await startAgain()
      try {
        await removeInstances()
      } catch (error) {
        // A server that was about to end, as by Ctrl-C at the terminal that is everybody's, can't remove its VMs any more.
        if (!(await endsSoon(running.child))) throw error
        await startAgain()
        await removeInstances()
      }
    },
  }
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null
}

async function endsSoon(child: ChildProcess): Promise<boolean> {
  if (!hasEnded(child)) await once(child, 'exit', { signal: AbortSignal.timeout(END_LIMIT_MS) }).catch(() => undefined) // it goes on
  return hasEnded(child)
}

interface Running {
  readonly child: ChildProcess
  readonly url: string
  readonly token: string
}

async function launch(
  program: ServerProgram,
  dataDirectory: string,
  logFile: string,
  settings: Readonly<Record<string, string>>,
): Promise<Running> {
  const child = spawn(program.command, [...program.args, 'serve'], {
    // Machines that boot or are loaded in the background would show in what tests count.
    env: {
      ...process.env,
      ...{ DATA_DIR: dataDirectory, PORT: '0', HOST: '127.0.0.1', TEMPLATES: 'false', SNAPSHOTS__SPARES: '0' },
      ...settings,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const log = createWriteStream(logFile, { flags: 'a' })
  child.stderr.pipe(log, { end: false })
  const url = await listeningUrl(child, log).catch((error: unknown) => {
    child.kill('SIGKILL')
    throw error
  })
  const token = await signIn(dataDirectory)
  return { child, url, token }
}

/** The server writes JSON lines; the one that says `listening` carries the address. */
async function listeningUrl(child: ChildProcess, log: NodeJS.WritableStream): Promise<string> {
  if (child.stdout === null) throw new Error('the server has no output')
  const lines = createInterface({ input: child.stdout })
  const { promise, resolve, reject } = Promise.withResolvers<string>()
  const seen: string[] = []
  child.stderr?.on('data', (text: Buffer) => seen.push(text.toString()))
  lines.on('line', (line) => {
    log.write(`${line}\n`)
    seen.push(line)
    if (line.includes('"msg":"listening"')) resolve((JSON.parse(line) as { url: string }).url)
  })
  child.once('exit', (code, signal) => reject(new Error(`the server ended (${code ?? signal}) before it listened:\n${seen.join('\n')}`)))
  const timer = setTimeout(
    () => reject(new Error(`the server did not listen within ${START_LIMIT_MS} ms:\n${seen.join('\n')}`)),
    START_LIMIT_MS,
  )
  try {
    return await promise
  } finally {
    clearTimeout(timer)
  }
}

async function signIn(dataDirectory: string): Promise<string> {
  return signToken((await readFile(path.join(dataDirectory, 'jwt-secret'), 'utf8')).trim(), { subject: 'tests', ttlSeconds: TOKEN_LIFE_S })
}

function clientOf(running: Running): Hypeman {
  return new Hypeman({ baseURL: running.url, apiKey: running.token, maxRetries: 0, timeout: 300_000 })
}
