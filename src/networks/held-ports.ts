// Keeps published ports of guests on tap devices from being given to anybody else: rules of the firewall lead to the guest before a program on the host is asked, so nothing but a
// socket of ours tells others that the port is taken. Nothing ever arrives on these sockets while the rules are in force.

import { bindPort, type PublishedPort } from './ports.ts'

/** Holds all of the ports, or throws `port_in_use` and holds none. Disposing lets them go. */
export async function holdPorts(ports: readonly PublishedPort[]): Promise<AsyncDisposable> {
  await using held = new AsyncDisposableStack()
  for (const port of ports) held.use(await bindPort(port))
  return held.move()
}
