// The quickstart's own server on a data directory of its own: started as a user would, asked over its API, and cleaned up whatever happens.

import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createReadStream } from 'node:fs'
import { mkdtemp, open, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { styleText } from 'node:util'
import { createClient, type Client } from '../../src/client/client.ts'
import { openExec } from '../../src/client/exec.ts'
import { signToken } from '../../src/platform/token.ts'

const root = path.join(import.meta.dirname, '..', '..')
const program = path.join(root, 'bin', 'hypeman')
const archive = path.join(root, '.assets', 'base.oci.tar')
/** Until a started server must listen, in milliseconds. */
const START_LIMIT_MS = 60_000
/** Until a guest must run. */
const RUNNING_LIMIT = '2m'
const LOG_LINES = 15

export interface World extends AsyncDisposable {
  readonly client: () => Client
  /** Does something and says how long it took. */
  readonly step: <T>(what: string, act: () => Promise<T>) => Promise<T>
  readonly start: () => Promise<void>
  readonly importImage: (name: string) => Promise<void>
  readonly running: (instance: string) => Promise<void>
  /** Runs a shell command in a machine and returns what it wrote; a failure is an error. */
  readonly run: (instance: string, command: string) => Promise<string>
  /** Shows a command of the command line with its output. */
  readonly show: (args: readonly string[]) => Promise<void>
  /** Leaves everything running and says what to try next. */
  readonly keep: () => void
  /** The end of the server's log, for a failure. */
  readonly explain: () => Promise<string>
}

interface Server {
  readonly child: ChildProcess
  readonly url: string
}

export async function openWorld(signal: AbortSignal): Promise<World> {
  const home = await mkdtemp(path.join(tmpdir(), 'hypeman-quickstart-'))
  const dataDir = path.join(home, 'data')
  const logFile = path.join(home, 'server.log')
  let server: Server | undefined
  let client: Client | undefined
  let kept = false

  const launch = async (): Promise<void> => {
    server = await startServer(dataDir, logFile)
    const secret = (await readFile(path.join(dataDir, 'jwt-secret'), 'utf8')).trim()
    client = createClient({ baseUrl: server.url, token: () => signToken(secret, { subject: 'quickstart', ttlSeconds: 300 }) })
  }
  const current = (): Client => {
    if (client === undefined) throw new Error('the server is not started')
    return client
  }
  const removeMachines = async ({ child }: Server): Promise<void> => {
    // Machines outlive their server: one that died is started once more to remove them.
    const answers = await current()
      .health()
      .then(
        () => true,
        () => false,
      )
    if (!answers) {
      await stop(child)
      await launch()
    }
    const { instances } = current()
    for (const instance of await instances.list()) await instances.delete(instance.id)
  }

  return {
    client: current,
    start: launch,
    async step(what, act) {
      signal.throwIfAborted()
      const from = performance.now()
      if (process.stdout.isTTY) process.stdout.write(`  … ${what}\r`)
      try {
        const result = await act()
        console.log(`  ${styleText('green', '✔')} ${what.padEnd(42)} ${took(performance.now() - from)}`)
        return result
      } catch (error) {
        console.log(`  ${styleText('red', '✖')} ${what}`)
        throw error
      }
    },
    async importImage(name) {
      const { images } = current()
      for (let image = await images.import(name, createReadStream(archive), undefined, { signal }); image.status !== 'ready';) {
        if (image.status === 'failed') throw new Error(`the image could not be made: ${image.error ?? 'no reason given'}`)
        await delay(50, undefined, { signal })
        image = await images.get(name, { signal })
      }
    },
    async running(instance) {
      const { state, state_error: reason } = await current().instances.wait(
        instance,
        { state: 'Running', timeout: RUNNING_LIMIT },
        { signal },
      )
      if (state !== 'Running') throw new Error(`${instance} is ${state}${reason ? ` (${reason})` : ''} instead of Running`)
    },
    async run(instance, command) {
      const { baseUrl, token } = current().http
      using exec = await openExec({ baseUrl, token }, instance, { command: ['/bin/sh', '-c', command], tty: false }, signal)
      let said = ''
      for await (const output of exec.outputs()) {
        if (output.kind === 'output') said += output.data.toString('utf8')
        else if (output.exitCode !== 0)
          throw new Error(`in ${instance}, ${JSON.stringify(command)} ended with ${output.exitCode}: ${said.trim()}`)
      }
      return said.trimEnd()
    },
    async show(args) {
      console.log(styleText('dim', `$ hypeman ${args.join(' ')}`))
      const environment = { ...process.env, HYPEMAN_BASE_URL: current().http.baseUrl, DATA_DIR: dataDir }
      const shown = spawn(program, args, { stdio: ['ignore', 'inherit', 'inherit'], env: environment })
      const [code] = (await once(shown, 'exit')) as [number | null]
      if (code !== 0) throw new Error(`hypeman ${args.join(' ')} ended with ${code}`)
      console.log('')
    },
    keep() {
      kept = true
      if (server !== undefined) console.log(nextSteps(server, home, dataDir))
    },
    async explain() {
      const log = await readFile(logFile, 'utf8').catch(() => 'the server has written no log')
      return [`The end of the server's log:`, ...log.trimEnd().split('\n').slice(-LOG_LINES)].join('\n')
    },
    async [Symbol.asyncDispose]() {
      if (kept) return
      if (server !== undefined) {
        await removeMachines(server)
        await stop(server.child)
      }
      await rm(home, { recursive: true, force: true })
      console.log('Server, machines and data directory are gone again; npm run quickstart -- --keep leaves them.')
    },
  }
}

async function startServer(dataDir: string, logFile: string): Promise<Server> {
  await using log = await open(logFile, 'a')
  const from = (await log.stat()).size
  // Detached, so that Ctrl-C ends the quickstart, which then stops its server in order.
  const child = spawn(program, ['serve', '--data-dir', dataDir, '--port', '0'], {
    detached: true,
    stdio: ['ignore', log.fd, log.fd],
    // A machine that boots in the background for later ones would be in the times that are shown.
    env: { ...process.env, TEMPLATES: 'false' },
  })
  child.unref()
  const deadline = performance.now() + START_LIMIT_MS
  for (;;) {
    const url = listeningUrl((await readFile(logFile)).subarray(from).toString('utf8'))
    if (url !== undefined) return { child, url }
    if (hasEnded(child)) throw new Error('the server ended before it listened')
    if (performance.now() > deadline) throw new Error(`the server did not listen within ${START_LIMIT_MS / 1000} s`)
    await delay(20)
  }
}

/** The log is one JSON object a line; the one that says `listening` has the address. */
function listeningUrl(log: string): string | undefined {
  const line = log.split('\n').find((one) => one.includes('"msg":"listening"') && one.endsWith('}'))
  return line === undefined ? undefined : (JSON.parse(line) as { readonly url: string }).url
}

async function stop(child: ChildProcess): Promise<void> {
  if (hasEnded(child)) return
  const ended = once(child, 'exit')
  child.ref()
  child.kill('SIGTERM')
  await ended
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null
}

function took(ms: number): string {
  return ms < 1_000 ? `${Math.round(ms)} ms` : `${(ms / 1_000).toFixed(1)} s`
}

function nextSteps(server: Server, home: string, dataDir: string): string {
  return `
The server is left running. To use it:
  export HYPEMAN_BASE_URL=${server.url} DATA_DIR=${dataDir} PATH=${path.dirname(program)}:$PATH
Then try:
  hypeman exec -it fork-1 sh                        # a shell in a fork
  hypeman snapshot fork $(hypeman snapshot list -q) --count 5 --name-prefix w
  hypeman logs original; hypeman ps -a
  hypeman run --name mine hypeman/base              # with internet: hypeman run alpine
To end it all:
  hypeman rm -f --all; kill ${server.child.pid ?? ''}; rm -r ${home}`
}
