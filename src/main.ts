// The program: hands the command line over to cli/, and the server and this host's hypervisors to it as something to be loaded when it is asked for. Loads nothing else.

import type { Serve } from './cli/commands/serve.ts'
import type { LoadHostHypervisors } from './cli/host-hypervisors.ts'
import { runCommandLine } from './cli/program.ts'
import { processTerminal } from './cli/terminal.ts'

const serve: Serve = async (flags, signal) => (await import('./compose.ts')).serve(flags, signal)
const hypervisors: LoadHostHypervisors = async () => (await import('./host-hypervisors.ts')).createHostHypervisors()

process.exitCode = await runCommandLine(process.argv.slice(2), processTerminal(process.env), { serve, hypervisors })
