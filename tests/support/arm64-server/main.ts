// hypeman serve for guests with an arm64 processor, emulated on whatever this host has. Everything else is the product's. Started by tests.

import { runCommandLine } from '../../../src/cli/program.ts'
import { processTerminal } from '../../../src/cli/terminal.ts'
import { serve } from '../../../src/compose.ts'
import { createQemuDriver } from '../../../src/hypervisors/qemu/index.ts'

process.exitCode = await runCommandLine(process.argv.slice(2), processTerminal(process.env), {
  hypervisors: () => Promise.reject(new Error('the server of this test has no programs to look after')),
  serve: (flags, signal) => serve(flags, signal, async (layout) => [createQemuDriver({ machineType: 'virt', accelerator: 'tcg', layout })]),
})
