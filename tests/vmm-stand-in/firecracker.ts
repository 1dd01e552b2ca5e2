// `firecracker`: its command line and its HTTP API on a unix socket. Requests and answers are held against the official description; what is allowed when is firecracker-vm.ts.

import { appendFileSync, existsSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { parseArgs } from 'node:util'
import { loadDescription, type ApiDescription } from './description.ts'
import { startGuest } from './guest.ts'
import { startPaperGuest } from './paper-guest.ts'
import { openVm, Fault, snapshotVersion, type FirecrackerVm } from './firecracker-vm.ts'

/** What it says it is (bin/firecracker). */
const version = process.env['STAND_IN_VERSION'] ?? ''
/** `paper`: a guest without a kernel, for tests of the driver alone (paper-guest.ts). */
const isPaper = process.env['STAND_IN_GUEST'] === 'paper'
/** Longest body that the real one takes, in bytes. */
const LONGEST_BODY = 51_200

const { values: options } = parseArgs({
  options: {
    'api-sock': { type: 'string', default: '/run/firecracker.socket' },
    id: { type: 'string', default: 'anonymous-instance' },
    'log-path': { type: 'string' },
    level: { type: 'string' },
    'snapshot-version': { type: 'boolean' },
    // Of the jailer.
    'start-time-us': { type: 'string' },
    'start-time-cpu-us': { type: 'string' },
    'parent-cpu-time-us': { type: 'string' },
  },
})

if (options['snapshot-version'] === true) {
  process.stdout.write(`v${snapshotVersion}\n`)
} else await run(options['api-sock'])

async function run(socket: string): Promise<void> {
  if (existsSync(socket)) return fail(`Failed to open the API socket at: ${socket}. Check that it is not already used.`, 1)
  const description = await loadDescription('firecracker.yaml', '', { onlyKnownFields: true })
  const vm = openVm({ startGuest: isPaper ? startPaperGuest : startGuest, id: options.id, version, log, end: (code) => process.exit(code) })
  createServer((request, response) => {
    answer(vm, description, request, response).catch((error: unknown) => fail(`an answer of the stand-in is wrong: ${String(error)}`, 148))
  }).listen(socket)
  log(`Running Firecracker v${version}`)
}

async function answer(vm: FirecrackerVm, description: ApiDescription, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { method = '', url = '' } = request
  const body = await bodyOf(request)
  const { status, content, ends } = await carryOut(vm, description, method, url, body)
  description.demandAnswer(method, url, status, content)
  log(`The request ${method} ${url} was answered with ${status}${status >= 400 ? `: ${JSON.stringify(content)}` : ''}`)
  response.writeHead(status, content === undefined ? {} : { 'Content-Type': 'application/json' })
  response.end(content === undefined ? undefined : JSON.stringify(content), () => {
    if (ends) process.exit(1)
  })
}

interface Answer {
  readonly status: number
  readonly content?: unknown
  readonly ends?: boolean
}

async function carryOut(vm: FirecrackerVm, description: ApiDescription, method: string, url: string, text: string): Promise<Answer> {
  const refuse = (message: string, ends = false): Answer => ({ status: 400, content: { fault_message: message }, ends })
  let body: unknown
  try {
    body = text === '' ? undefined : JSON.parse(text)
  } catch (error) {
    return refuse(`An error occurred when deserializing the json body of a request: ${String(error)}.`)
  }
  const refusal = description.refusal(method, url, body)
  if (refusal !== undefined) return refuse(refusal)
  try {
    const content = await vm.handle(method, url, body)
    return content === undefined ? { status: 204 } : { status: 200, content }
  } catch (error) {
    if (error instanceof Fault) return refuse(error.message, error.ends)
    throw error
  }
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const pieces: Buffer[] = []
  let bytes = 0
  for await (const piece of request as AsyncIterable<Buffer>) {
    bytes += piece.length
    if (bytes <= LONGEST_BODY) pieces.push(piece)
  }
  return Buffer.concat(pieces).toString('utf8')
}

function log(line: string): void {
  const file = options['log-path']
  const said = `${new Date().toISOString()} [${options.id}] ${line}\n`
  if (file === undefined) process.stdout.write(said)
  else appendFileSync(file, said)
}

function fail(message: string, code: number): never {
  process.stderr.write(`${message}\n`)
  process.exit(code)
}
