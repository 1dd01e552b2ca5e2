// A page in Debian's Chromium, driven over its DevTools protocol by pipe (descriptors 3 and 4, messages ended by a zero byte),
// and all that the page asked for. Nothing gets out: what is not for this machine goes to a proxy that refuses it, also what the browser wants for itself.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { Readable, Writable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { z } from 'zod'

export interface Page extends AsyncDisposable {
  open(url: string): Promise<void>
  /** Runs an expression in the page; its value as JSON. */
  evaluate(expression: string): Promise<unknown>
  /** Waits until an expression is true in the page. */
  until(expression: string, limitMs?: number): Promise<void>
  /** Addresses that the page asked for, also those that were refused. */
  readonly requested: readonly string[]
  /** What the page wrote to its console as an error, refusals of its content security policy among it. */
  readonly errors: readonly string[]
}

/** How long the browser may take for one answer. */
const ANSWER_MS = 30_000

const flags = [
  ...['--headless=new', '--remote-debugging-pipe', '--no-sandbox', '--no-first-run', '--disable-gpu', '--disable-dev-shm-usage'],
  ...['--disable-background-networking', '--disable-component-update', '--disable-sync', '--disable-default-apps', '--disable-extensions'],
]

export async function openBrowser(): Promise<Page> {
  await using undo = new AsyncDisposableStack()
  const home = await mkdtemp(path.join(tmpdir(), 'browser-'))
  undo.defer(() => rm(home, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 }))
  const proxy = undo.use(await refusingProxy())
  const browser = spawn('chromium', [...flags, `--user-data-dir=${home}`, `--proxy-server=127.0.0.1:${proxy.port}`, 'about:blank'], {
    stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'],
    env: { ...process.env, HOME: home, XDG_CONFIG_HOME: home, XDG_CACHE_HOME: home },
  })
  const exited = once(browser, 'exit')
  const devTools = speak(browser.stdio[3] as Writable, browser.stdio[4] as Readable)
  undo.defer(async () => {
    // Its helpers end with it; a kill would leave them behind for a moment.
    devTools.send('Browser.close').catch(() => browser.kill('SIGKILL'))
    await exited
  })
  const { targetId } = z.object({ targetId: z.string() }).parse(await devTools.send('Target.createTarget', { url: 'about:blank' }))
  const attached = await devTools.send('Target.attachToTarget', { targetId, flatten: true })
  const { sessionId } = z.object({ sessionId: z.string() }).parse(attached)
  for (const domain of ['Page', 'Network', 'Runtime', 'Log']) await devTools.send(`${domain}.enable`, {}, sessionId)
  const evaluate = async (expression: string): Promise<unknown> => {
    const options = { expression, returnByValue: true, awaitPromise: true }
    const { result, exceptionDetails } = evaluation.parse(await devTools.send('Runtime.evaluate', options, sessionId))
    if (exceptionDetails !== undefined) throw new Error(`${expression}: ${JSON.stringify(exceptionDetails)}`)
    return result.value
  }
  const owned = undo.move()
  return {
    open: async (url) => void (await devTools.send('Page.navigate', { url }, sessionId)),
    evaluate,
    async until(expression, limitMs = ANSWER_MS) {
      const deadline = performance.now() + limitMs
      while ((await evaluate(`Boolean(${expression})`)) !== true) {
        if (performance.now() > deadline) throw new Error(`not so in the page after ${limitMs} ms: ${expression}`)
        await delay(50)
      }
    },
    requested: devTools.requested,
    errors: devTools.errors,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

const evaluation = z.object({ result: z.object({ value: z.unknown().optional() }), exceptionDetails: z.unknown().optional() })

const message = z.object({
  id: z.number().optional(),
  result: z.unknown().optional(),
  error: z.object({ message: z.string() }).optional(),
  method: z.string().optional(),
  params: z.unknown().optional(),
})
const requestSent = z.object({ request: z.object({ url: z.string() }) })
const entryAdded = z.object({ entry: z.object({ level: z.string(), text: z.string() }) })
const exceptionThrown = z.object({ exceptionDetails: z.object({ text: z.string() }) })

interface DevTools {
  readonly requested: string[]
  readonly errors: string[]
  send(method: string, params?: object, sessionId?: string): Promise<unknown>
}

function speak(to: Writable, from: Readable): DevTools {
  const waiting = new Map<number, PromiseWithResolvers<unknown>>()
  const requested: string[] = []
  const errors: string[] = []
  let rest = ''
  let last = 0
  const take = (text: string): void => {
    const { id, result, error, method, params } = message.parse(JSON.parse(text))
    if (id !== undefined) {
      const asked = waiting.get(id)
      waiting.delete(id)
      if (error === undefined) asked?.resolve(result)
      else asked?.reject(new Error(error.message))
    } else if (method === 'Network.requestWillBeSent') requested.push(requestSent.parse(params).request.url)
    else if (method === 'Log.entryAdded') {
      const { entry } = entryAdded.parse(params)
      if (entry.level === 'error') errors.push(entry.text)
    } else if (method === 'Runtime.exceptionThrown') errors.push(exceptionThrown.parse(params).exceptionDetails.text)
  }
  from.setEncoding('utf8').on('data', (chunk: string) => {
    const texts = `${rest}${chunk}`.split('\0')
    rest = texts.pop() ?? ''
    for (const text of texts) take(text)
  })
  from.once('close', () => {
    for (const { reject } of waiting.values()) reject(new Error('the browser has ended'))
  })
  to.on('error', (error) => {
    for (const { reject } of waiting.values()) reject(error)
  })
  return {
    requested,
    errors,
    async send(method, params = {}, sessionId) {
      const id = (last += 1)
      const answer = Promise.withResolvers<unknown>()
      waiting.set(id, answer)
      const limit = setTimeout(() => answer.reject(new Error(`the browser did not answer ${method} within ${ANSWER_MS} ms`)), ANSWER_MS)
      to.write(`${JSON.stringify({ id, method, params, ...(sessionId === undefined ? {} : { sessionId }) })}\0`)
      return answer.promise.finally(() => clearTimeout(limit))
    },
  }
}

interface RefusingProxy extends AsyncDisposable {
  readonly port: number
}

/** Lets nothing through. Browsers do not use a proxy for this machine itself. */
async function refusingProxy(): Promise<RefusingProxy> {
  const server = createServer((socket) => {
    socket.on('error', () => socket.destroy())
    socket.once('data', () => socket.end('HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n'))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return {
    port,
    async [Symbol.asyncDispose]() {
      server.close()
      await once(server, 'close')
    },
  }
}
