// hypeman serve with the VZ driver, told that its host is a Mac; its helper is the stand-in. Everything else is the product's. Started by tests.

import path from 'node:path'
import { runCommandLine } from '../../src/cli/program.ts'
import { processTerminal } from '../../src/cli/terminal.ts'
import { serve } from '../../src/compose.ts'
import type { MakeDrivers } from '../../src/drivers.ts'
import { createVzDriver } from '../../src/hypervisors/vz/index.ts'

const command = path.resolve(import.meta.dirname, '../vmm-stand-in/bin/hypeman-vz')
const makeDrivers: MakeDrivers = async (layout) => [createVzDriver({ layout, command, host: { platform: 'darwin', arch: 'arm64' } })]
process.exitCode = await runCommandLine(process.argv.slice(2), processTerminal(process.env), {
  hypervisors: () => Promise.reject(new Error('the helper is built, not installed')),
  serve: (flags, signal) => serve(flags, signal, makeDrivers),
})
