// npm run test:forks: a hundred forks of one snapshot on real machines, four at a time, compared by hypeman fork-check as a user would. Their image has Python, Node.js, Perl,
// OpenSSL and OpenSSH. The last line is "100 forks, 0 collisions"; anything else ends with 1.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { startForkWorld } from '../support/fork-world.ts'
import { startServer } from '../support/server.ts'
import { importImage, machine, prepare } from './programs.ts'

const { values } = parseArgs({ options: { count: { type: 'string', default: '100' }, parallel: { type: 'string', default: '4' } } })
const hypeman = path.resolve(import.meta.dirname, '../../bin/hypeman')

await using server = await startServer()
await importImage(server)
await using world = await startForkWorld(server, { machine, prepare })
const words = ['fork-check', world.snapshotId, '--count', values.count, '--parallel', values.parallel]
const check = spawn(hypeman, words, { env: { ...process.env, ...server.environment }, stdio: ['ignore', 'inherit', 'inherit'] })
const [code] = (await once(check, 'exit')) as [number | null]
process.exitCode = code ?? 1
