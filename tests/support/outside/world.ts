// A network beside the host, with a page and a resolver: a namespace of its own at the other end of a cable, so that nothing in it is the host itself.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { run } from '../command.ts'

/** Of a network that is for tests of equipment alone (RFC 2544): the host's address on it, and where everything is. */
const HOST = '198.18.77.1'
export const OUTSIDE = '198.18.77.2'
export const pagePorts: readonly number[] = [80, 8080]
export const names: Readonly<Record<string, string>> = { 'web.outside.test': OUTSIDE, 'inside.outside.test': '127.0.0.1' }

async function ip(...args: readonly string[]): Promise<void> {
  const { code, stderr } = await run('ip', args)
  if (code !== 0) throw new Error(`ip ${args.join(' ')}: ${stderr}`)
}

export async function startOutside(): Promise<AsyncDisposable> {
  const [namespace, cable] = [`hypeman-test-${process.pid}`, `cab${process.pid}`]
  await using undo = new AsyncDisposableStack()
  await ip('netns', 'add', namespace)
  undo.defer(() => ip('netns', 'delete', namespace))
  await ip('link', 'add', cable, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', namespace)
  // With one end goes the other.
  undo.defer(() => ip('link', 'delete', cable))
  await ip('address', 'add', `${HOST}/30`, 'dev', cable)
  await ip('link', 'set', cable, 'up')
  const inside = ['-n', namespace] as const
  await ip(...inside, 'address', 'add', `${OUTSIDE}/30`, 'dev', 'eth0')
  for (const device of ['lo', 'eth0']) await ip(...inside, 'link', 'set', device, 'up')
  const child = spawn('ip', ['netns', 'exec', namespace, process.execPath, path.join(import.meta.dirname, 'services.ts')], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  undo.defer(async () => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGKILL')
      await once(child, 'exit')
    }
  })
  const started = await Promise.race([once(child.stdout, 'data').then(String), once(child, 'exit').then(() => 'ended')])
  if (!started.startsWith('ready')) throw new Error('the services beside the host did not start')
  return undo.move()
}
