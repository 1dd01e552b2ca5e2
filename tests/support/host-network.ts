// Devices and rules that servers have on the host. Whose they are is told by the data directory in their names for people.

import { readFile, readdir } from 'node:fs/promises'
import path from 'node:path'
import { whyNotTap } from '../../src/platform/host-rights.ts'
import { run } from './command.ts'

/** Whether guests can have devices of the host here: then tests of it run. */
export const hasHostNetwork = process.getuid?.() === 0 && whyNotTap() === undefined

export interface HostDevice {
  readonly name: string
  readonly alias: string
}

/** Tap devices of servers whose data directory is there or below. */
export async function devicesBelow(directory: string): Promise<readonly HostDevice[]> {
  const devices: HostDevice[] = []
  for (const name of await readdir('/sys/class/net')) {
    if (!name.startsWith('hmt')) continue
    // A device may go while it is looked at.
    const alias = await readFile(path.join('/sys/class/net', name, 'ifalias'), 'utf8').catch(() => '')
    if (alias.includes(` ${directory}`)) devices.push({ name, alias: alias.trim() })
  }
  return devices
}

/** Lines of the host's rules: those that lead into chains of such servers, or those that begin with a text. */
export async function rulesBelow(directory: string, beginning = ''): Promise<readonly string[]> {
  const { stdout } = await run('iptables-save', [])
  return stdout.split('\n').filter((line) => (beginning === '' ? line.includes(`hypeman ${directory}`) : line.startsWith(beginning)))
}
