// What is beside the host (world.ts): a page on two ports, and names. Prints a line when it is there.

import { once } from 'node:events'
import { createServer } from 'node:http'
import { serveNames } from '../dns.ts'
import { OUTSIDE, names, pagePorts } from './world.ts'

for (const port of pagePorts) {
  const server = createServer((_request, response) => void response.end('outside\n')).listen(port, OUTSIDE)
  await once(server, 'listening')
}
await serveNames(OUTSIDE, 53, names)
console.log('ready')
