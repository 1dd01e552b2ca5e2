// `hypeman-vz`: the command line and the HTTP API of vz/PROTOCOL.md. Each request, and each answer of its own, is held against the protocol's schemas; what is allowed when is vz-vm.ts.

import { chmodSync, existsSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { parseArgs } from 'node:util'
import type { z } from 'zod'
import { operations, pathOf, PROTOCOL, refusal, refusals, type Operation } from '../../src/hypervisors/vz/protocol.ts'
import { openVm, Refusal, type VzVm } from './vz-vm.ts'

/** What it says of its host: a wrapper may say otherwise, for tests of versions. */
const macos = process.env['STAND_IN_MACOS'] ?? '15.1'
/** An operation and what becomes of it, for tests of what a helper may do wrong: `vm.restore:die`. */
const [broken, fault] = (process.env['STAND_IN_FAULT'] ?? '').split(':')
/** Longest body, in bytes. */
const LONGEST_BODY = 1024 ** 2

const { values: options } = parseArgs({
  options: { version: { type: 'boolean' }, name: { type: 'string' }, socket: { type: 'string' } },
})

if (options.version === true) process.stdout.write(`hypeman-vz protocol ${PROTOCOL} on macOS ${macos}\n`)
else run(options.socket)

function run(socket: string | undefined): void {
  if (socket === undefined || options.name === undefined) return fail('usage: hypeman-vz --version | --name NAME --socket PATH')
  if (existsSync(socket)) return fail(`${socket} is there already: remove it first`)
  if (broken === 'start') return startBroken()
  const { STAND_IN_UNSAVABLE: unsavable = null, STAND_IN_BARE: bare } = process.env
  const vm = openVm({
    macos: process.env['STAND_IN_MACOS_NOW'] ?? macos,
    unsavable,
    isBare: bare === '1',
    end: (code) => process.exit(code),
  })
  const server = createServer((request, response) => {
    answer(vm, request, response).catch((error: unknown) => fail(`an answer of the stand-in is wrong: ${String(error)}`))
  })
  server.listen(socket, () => chmodSync(socket, 0o600))
}

/** Of what changes the machine one is carried out after the other. */
let before: Promise<unknown> = Promise.resolve()

async function answer(vm: VzVm, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const text = await bodyOf(request)
  if (request.url?.endsWith(`/${broken ?? ''}`) === true && misbehaves(response)) return
  const carriedOut = request.method === 'GET' ? carryOut(vm, request, text) : before.then(() => carryOut(vm, request, text))
  before = carriedOut.catch(() => undefined)
  const { status, content, ends } = await carriedOut
  response.writeHead(status, { connection: 'close', ...(content === undefined ? {} : { 'content-type': 'application/json' }) })
  response.end(content === undefined ? undefined : JSON.stringify(content), () => {
    if (ends === true) vm.end()
  })
}

/** True if the request is not carried out. */
function misbehaves(response: ServerResponse): boolean {
  if (fault === 'die') fail('a fault that was ordered')
  if (fault === 'garbage') response.end('<html>')
  return fault === 'garbage' || fault === 'hang'
}

/** Never listens. */
function startBroken(): void {
  if (fault === 'die') fail('a fault that was ordered')
  setInterval(() => undefined, 60_000)
}

interface Answer {
  readonly status: number
  readonly content?: unknown
  readonly ends?: boolean
}

const ending: ReadonlySet<Operation> = new Set(['vm.shutdown', 'vmm.shutdown'])

async function carryOut(vm: VzVm, { method, url }: IncomingMessage, text: string | undefined): Promise<Answer> {
  try {
    const operation = operationOf(method, url)
    const { request, answer: schema }: { readonly request: z.ZodType; readonly answer: z.ZodType } = operations[operation]
    const asked = request.safeParse(valueOf(text))
    if (!asked.success)
      throw new Refusal('bad_request', asked.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; '))
    const content = await vm.handle(operation, asked.data)
    const status = content !== undefined ? 200 : operation === 'vm.resume' ? 202 : 204
    return { status, content: schema.parse(content), ends: ending.has(operation) }
  } catch (error) {
    if (!(error instanceof Refusal)) throw error
    process.stderr.write(`refused ${method ?? ''} ${url ?? ''}: ${error.message}\n`)
    return { status: refusals[error.code], content: refusal.parse({ code: error.code, message: error.message }) }
  }
}

function operationOf(method: string | undefined, url: string | undefined): Operation {
  for (const operation of Object.keys(operations) as Operation[])
    if (pathOf(operation) === url && operations[operation].method === method) return operation
  throw new Refusal('not_found', `there is no ${method ?? ''} ${url ?? ''}`)
}

function valueOf(text: string | undefined): unknown {
  if (text === undefined) throw new Refusal('bad_request', `the body is longer than ${LONGEST_BODY} bytes`)
  try {
    return text === '' ? undefined : JSON.parse(text)
  } catch (error) {
    throw new Refusal('bad_request', `the body is no JSON: ${String(error)}`)
  }
}

/** Undefined if it is too long. */
async function bodyOf(request: IncomingMessage): Promise<string | undefined> {
  const pieces: Buffer[] = []
  let bytes = 0
  for await (const piece of request as AsyncIterable<Buffer>) {
    bytes += piece.length
    if (bytes <= LONGEST_BODY) pieces.push(piece)
  }
  return bytes <= LONGEST_BODY ? Buffer.concat(pieces).toString('utf8') : undefined
}

function fail(message: string): never {
  process.stderr.write(`${message}\n`)
  process.exit(1)
}
