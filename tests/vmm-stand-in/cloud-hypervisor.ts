// `cloud-hypervisor`: its command line and its HTTP API on a unix socket. Requests and answers are held against the official description; what is allowed when is
// cloud-hypervisor-vm.ts.

import { appendFileSync, existsSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { parseArgs } from 'node:util'
import { withoutNulls } from './cloud-hypervisor-config.ts'
import { openVm, Refusal, type CloudHypervisorVm } from './cloud-hypervisor-vm.ts'
import { loadDescription, type ApiDescription } from './description.ts'
import { startGuest } from './guest.ts'
import { startPaperGuest } from './paper-guest.ts'

/** What it says it is, and can: a wrapper may say otherwise, for tests of versions and faults. */
const {
  STAND_IN_VERSION: version = '52.0',
  STAND_IN_USERFAULTFD: userfaultfd = 'yes',
  STAND_IN_GUEST: guests = 'qemu',
  STAND_IN_DIES: dies,
} = process.env
const basePath = '/api/v1'

const { values: options } = parseArgs({
  options: {
    'api-socket': { type: 'string' },
    'event-monitor': { type: 'string' },
    cmdline: { type: 'string' },
    version: { type: 'boolean', short: 'V' },
  },
})
const events = options['event-monitor']?.replace(/^path=/, '')

if (options.version === true) process.stdout.write(`cloud-hypervisor v${version}\n`)
else await run(options['api-socket']?.replace(/^path=/, ''))

/** In the real one's form: JSON objects, a blank line between two. As in its older versions, what is in the file stays. */
function noteEvent(event: string, source = 'vm'): void {
  if (events === undefined) return
  const ms = performance.now()
  const timestamp = { secs: Math.floor(ms / 1_000), nanos: Math.floor((ms % 1_000) * 1e6) }
  appendFileSync(events, `${JSON.stringify({ timestamp, source, event, properties: null }, null, 2)}\n\n`)
}

async function run(socket: string | undefined): Promise<void> {
  if (socket === undefined) return fail('Error: no API socket and no payload given')
  if (existsSync(socket)) return fail(`Error creating the API server: the socket ${socket} is in use`)
  noteEvent('starting', 'vmm')
  const description = await loadDescription('cloud-hypervisor.yaml', basePath, { onlyKnownFields: true })
  const vm = openVm({
    startGuest: guests === 'paper' ? startPaperGuest : startGuest,
    hasUserfaultfd: userfaultfd === 'yes',
    describes: (config) => description.refusal('PUT', `${basePath}/vm.create`, withoutNulls(config)),
    event: noteEvent,
    log: (line) => process.stderr.write(`cloud-hypervisor: ${line}\n`),
    end: (code) => process.exit(code),
  })
  createServer((request, response) => {
    answer(vm, description, request, response).catch((error: unknown) => fail(`an answer of the stand-in is wrong: ${String(error)}`))
  }).listen(socket)
}

async function answer(
  vm: CloudHypervisorVm,
  description: ApiDescription,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { method = '', url = '' } = request
  const { status, content, ends } = await carryOut(vm, description, method, url, await bodyOf(request))
  // Of its refusals the description names few and no contents: there the real one's form is kept, a list of messages.
  if (status < 400) description.demandAnswer(method, url, status, content === undefined ? undefined : withoutNulls(content))
  process.stderr.write(
    `cloud-hypervisor: ${method} ${url} was answered with ${status}${status >= 400 ? `: ${JSON.stringify(content)}` : ''}\n`,
  )
  response.writeHead(status, { server: 'Cloud Hypervisor API', ...(content === undefined ? {} : { 'content-type': 'application/json' }) })
  response.end(content === undefined ? undefined : JSON.stringify(content), () => {
    if (ends === true) process.exit(0)
  })
}

interface Answer {
  readonly status: number
  readonly content?: unknown
  readonly ends?: boolean
}

async function carryOut(vm: CloudHypervisorVm, description: ApiDescription, method: string, url: string, text: string): Promise<Answer> {
  const refuse = (status: number, ...messages: readonly string[]): Answer => ({ status, content: messages })
  let body: unknown
  try {
    body = text === '' ? undefined : JSON.parse(text)
  } catch (error) {
    return refuse(400, 'Failed to deserialize JSON', String(error))
  }
  const wrong = description.refusal(method, url, body)
  if (wrong !== undefined) return refuse(400, 'Failed to deserialize JSON', wrong)
  const name = url.slice(basePath.length + 1)
  if (name === 'vmm.ping')
    return { status: 200, content: { build_version: `v${version}`, version: `${version}.0`, pid: process.pid, features: ['kvm'] } }
  if (name === 'vmm.shutdown') return { status: 204, ends: true }
  if (name === dies) process.kill(process.pid, 'SIGKILL')
  try {
    const content = await vm.handle(name, body)
    return content === undefined ? { status: 204 } : { status: 200, content }
  } catch (error) {
    if (error instanceof Refusal) return refuse(error.status, 'Error from API', error.message)
    throw error
  }
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const pieces: Buffer[] = []
  for await (const piece of request as AsyncIterable<Buffer>) pieces.push(piece)
  return Buffer.concat(pieces).toString('utf8')
}

function fail(message: string): never {
  process.stderr.write(`${message}\n`)
  process.exit(1)
}
