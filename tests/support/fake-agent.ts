// A guest agent without a guest: programs are functions, files are in a map. For tests of what speaks to agents; nothing here is like a real guest inside.

import path from 'node:path'
import { PassThrough, Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { packTar } from 'modern-tar'
import type { AgentClient, ExecExit, ExecRequest, ExecSession, FileOptions } from '../../src/agent/contract.ts'
import { HypemanError } from '../../src/api/errors.ts'

export interface ProgramIo {
  readonly request: ExecRequest
  readonly input: AsyncIterable<Buffer>
  /** Resolves when the reader has room for more. */
  readonly print: (text: string | Buffer, stream?: 'stdout' | 'stderr') => Promise<void>
  readonly resizes: readonly { readonly rows: number; readonly cols: number }[]
  readonly hungUp: AbortSignal
}

export type Program = (io: ProgramIo) => Promise<ExecExit>

export type GuestNode =
  | { readonly kind: 'file'; readonly content: Buffer; readonly options: FileOptions }
  | { readonly kind: 'directory'; readonly options: FileOptions }
  | { readonly kind: 'link'; readonly target: string }

export interface FakeAgent extends AgentClient {
  readonly files: Map<string, GuestNode>
  /** By the first word of the command. */
  readonly programs: Map<string, Program>
  /** Sent instead of an archive of the files. */
  archive: Readable | undefined
}

export function createFakeAgent(): FakeAgent {
  const files = new Map<string, GuestNode>()
  const programs = new Map<string, Program>()
  const unused = (): never => {
    throw new Error('the server has no business with this')
  }
  const agent: FakeAgent = {
    files,
    programs,
    archive: undefined,
    closed: Promise.withResolvers<void>().promise,
    health: unused,
    boot: unused,
    identity: unused,
    freeze: unused,
    thaw: unused,
    stats: unused,
    probe: unused,
    sync: unused,
    grow: unused,
    shutdown: unused,
    stat: unused,
    close: () => undefined,
    async exec(request) {
      const program = programs.get(request.argv[0] ?? '/bin/sh')
      return startProgram(program ?? (async () => ({ exitCode: 127, error: `${request.argv[0] ?? ''}: not found` })), request)
    },
    async writeFile(file, options, content) {
      const place = files.get(file)
      if (place?.kind === 'directory') throw new HypemanError('invalid_request', `${file} is a directory`)
      const bytes = await buffer(content)
      files.set(file, { kind: 'file', content: bytes, options })
      return { bytesWritten: bytes.length }
    },
    async makeDirectory(directory, options) {
      if (files.get(directory)?.kind === 'file') throw new HypemanError('invalid_request', `${directory} is a file`)
      files.set(directory, { kind: 'directory', options })
    },
    async readArchive(root) {
      if (agent.archive !== undefined) return agent.archive
      const below = [...files].filter(([name]) => name === root || name.startsWith(`${root}/`)).toSorted(([a], [b]) => (a < b ? -1 : 1))
      if (below.length === 0) throw new HypemanError('not_found', `stat: ${root}: no such file or directory`)
      const parent = path.posix.dirname(root)
      return Readable.from([await packTar(below.map(([name, node]) => tarEntry(path.posix.relative(parent, name), node)))])
    },
  }
  return agent
}

function tarEntry(name: string, node: GuestNode): Parameters<typeof packTar>[0][number] {
  const mtime = new Date(1_700_000_000_000)
  if (node.kind === 'link') return { header: { name, type: 'symlink', linkname: node.target, size: 0, mtime } }
  if (node.kind === 'directory') return { header: { name: `${name}/`, type: 'directory', size: 0, mode: node.options.mode, mtime } }
  return { header: { name, type: 'file', size: node.content.length, mode: node.options.mode, mtime }, body: new Uint8Array(node.content) }
}

function startProgram(program: Program, request: ExecRequest): ExecSession {
  const input = new PassThrough()
  const output = new PassThrough({ objectMode: true, highWaterMark: 4 })
  const hungUp = new AbortController()
  const resizes: { rows: number; cols: number }[] = []
  const io: ProgramIo = {
    request,
    input,
    async print(text, stream = 'stdout') {
      if (output.write({ stream, data: Buffer.from(text) }) || output.destroyed) return
      const { promise, resolve } = Promise.withResolvers<void>()
      output.once('drain', resolve).once('close', resolve)
      await promise
      output.off('drain', resolve).off('close', resolve)
    },
    resizes,
    hungUp: hungUp.signal,
  }
  const exit = Promise.withResolvers<ExecExit>()
  exit.promise.catch(() => undefined)
  output.on('error', () => undefined)
  const broken = (): HypemanError => new HypemanError('guest_unreachable', 'the connection to the program broke')
  program(io)
    .finally(() => output.end())
    .then(exit.resolve, exit.reject)
  return {
    output,
    exit: exit.promise,
    write(data) {
      const { promise, resolve, reject } = Promise.withResolvers<void>()
      input.write(data, (error) => (error ? reject(broken()) : resolve()))
      return promise
    },
    async endInput() {
      input.end()
    },
    async resize(rows, cols) {
      resizes.push({ rows, cols })
    },
    async signal() {},
    hangUp() {
      hungUp.abort()
      exit.reject(broken())
      input.destroy()
      output.destroy(output.readableEnded ? undefined : broken())
    },
  }
}
