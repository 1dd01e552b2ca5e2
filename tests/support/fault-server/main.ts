// hypeman serve with faults on order, on stand-ins or on QEMU. Everything else is the product's. Started by tests (server.ts).

import { mkdirSync, realpathSync } from 'node:fs'
import path from 'node:path'
import { runCommandLine } from '../../../src/cli/program.ts'
import { processTerminal } from '../../../src/cli/terminal.ts'
import { serve } from '../../../src/compose.ts'
import type { MakeDrivers } from '../../../src/drivers.ts'
import { createStandIns } from '../stand-in-hypervisor/driver.ts'
import { interceptCalls } from './calls.ts'
import { faultPlanOf } from './steps.ts'
import { createStriker } from './strike.ts'

const { HYPEMAN_FAULT_ORDERS: orders = '', DATA_DIR: configured = '', HYPEMAN_STAND_IN: program } = process.env
mkdirSync(configured, { recursive: true })
// As the product names its files.
const dataDirectory = path.join(realpathSync(configured))
const striker = createStriker(orders, dataDirectory)
await interceptCalls(striker, dataDirectory)
const standIns: MakeDrivers = async () => createStandIns(program ?? '')
process.exitCode = await runCommandLine(process.argv.slice(2), processTerminal(process.env), {
  serve: (flags, signal) => serve(flags, signal, program === undefined ? undefined : standIns, faultPlanOf(striker)),
})
