// Asks a server on stand-in machines for a long time: `npm run fuzz -- --requests 10000 --seed 1`. Prints a summary; exits 1 when an answer is not as described.

import { parseArgs } from 'node:util'
import { randomInt } from 'node:crypto'
import { fuzz, summary } from '../support/fuzz/run.ts'
import { startStandInServer } from '../support/stand-in-hypervisor/server.ts'

const { values } = parseArgs({ options: { requests: { type: 'string', default: '10000' }, seed: { type: 'string' } } })
await using server = await startStandInServer()
const report = await fuzz(server, { requests: Number(values.requests), seed: Number(values.seed ?? randomInt(2 ** 31)) })
console.log(summary(report))
process.exitCode = report.findings.length === 0 ? 0 : 1
