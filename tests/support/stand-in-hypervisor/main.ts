// hypeman serve on stand-ins instead of QEMU: everything of the product but its hypervisors. Started by tests (server.ts).

import { serve } from '../../../src/compose.ts'
import { runCommandLine } from '../../../src/cli/program.ts'
import { processTerminal } from '../../../src/cli/terminal.ts'
import { createStandIns } from './driver.ts'
import { standInProgram } from './program.ts'

const program = process.env['HYPEMAN_STAND_IN'] ?? (await standInProgram())
process.exitCode = await runCommandLine(process.argv.slice(2), processTerminal(process.env), {
  serve: (flags, signal) => serve(flags, signal, async () => createStandIns(program)),
})
