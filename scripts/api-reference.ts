// Writes docs/api.md out of the server's own description of its API and the error table; with --check it only tells whether the file is up to date.

import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { pino } from 'pino'
import { createAuthenticator } from '../src/server/auth.ts'
import { createHttpServer } from '../src/server/http.ts'
import { renderReference } from './reference/render.ts'
import { openApiDocument, type OpenApiDocument } from './reference/document.ts'

const file = path.resolve(import.meta.dirname, '../docs/api.md')

async function describe(): Promise<OpenApiDocument> {
  // Nobody asks this server for anything but its description.
  const unused = {} as never
  const services = {
    unreadable: unused,
    capabilities: unused,
    instances: unused,
    snapshots: unused,
    schedules: unused,
    images: unused,
    pushes: unused,
    volumes: unused,
    resources: unused,
  }
  const app = await createHttpServer({
    services,
    authenticator: createAuthenticator([]),
    log: pino({ enabled: false }),
    version: '0',
    stopping: AbortSignal.abort(),
    // It never listens.
    limits: { headersMs: 1_000, bodyMs: 1_000, keepAliveMs: 1_000, connections: 1, streamsPerSubject: 0 },
  })
  try {
    await app.ready()
    return openApiDocument.parse(app.swagger())
  } finally {
    await app.close()
  }
}

async function main(args: readonly string[]): Promise<number> {
  const wanted = renderReference(await describe())
  if (!args.includes('--check')) {
    await writeFile(file, wanted)
    return 0
  }
  const present = await readFile(file, 'utf8').catch((error: unknown) => `unreadable: ${String(error)}`)
  if (present === wanted) return 0
  console.error('docs/api.md is not what the routes and schemas say; run: node scripts/api-reference.ts')
  return 1
}

process.exitCode = await main(process.argv.slice(2))
