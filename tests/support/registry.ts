// A real registry on this machine (Debian's docker-registry), open or with a password, as its own process with storage of its own.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { run } from './command.ts'

export interface TestRegistry extends AsyncDisposable {
  /** `127.0.0.1:port`. */
  readonly host: string
  /** Absolute path of a blob in its storage. */
  blobFile(digest: string): string
  /** Pushes the `image` of an OCI layout as `repository:tag`; `all` pushes every platform of an index. */
  push(layout: string, name: string, options?: { readonly all?: boolean }): Promise<void>
}

/** The only account of a registry with a password. */
export const account = { username: 'ada', password: 'secret' } as const
/** bcrypt of the account's password, at the lowest cost. */
const passwordFile = `ada:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n`
/** Until it listens, in milliseconds. */
const START_LIMIT_MS = 20_000

export async function startRegistry(options: { readonly withPassword?: boolean } = {}): Promise<TestRegistry> {
  const home = await mkdtemp(path.join(os.tmpdir(), 'registry-'))
  const secured = options.withPassword === true
  await writeFile(path.join(home, 'passwords'), passwordFile)
  const config = {
    version: 0.1,
    log: { accesslog: { disabled: true } },
    storage: { filesystem: { rootdirectory: path.join(home, 'storage') } },
    http: { addr: '127.0.0.1:0' },
    ...(secured ? { auth: { htpasswd: { realm: 'tests', path: path.join(home, 'passwords') } } } : {}),
  }
  // JSON is YAML too.
  await writeFile(path.join(home, 'config.yml'), JSON.stringify(config))
  const child = spawn('docker-registry', ['serve', path.join(home, 'config.yml')], { stdio: ['ignore', 'ignore', 'pipe'] })
  const { promise, resolve, reject } = Promise.withResolvers<string>()
  const said: string[] = []
  createInterface({ input: child.stderr }).on('line', (line) => {
    said.push(line)
    const [, host] = /listening on (127\.0\.0\.1:\d+)/.exec(line) ?? []
    if (host !== undefined) resolve(host)
  })
  child.once('error', reject)
  child.once('exit', () => reject(new Error(`docker-registry ended:\n${said.join('\n')}`)))
  const timer = setTimeout(() => reject(new Error(`docker-registry does not listen:\n${said.join('\n')}`)), START_LIMIT_MS)
  const host = await promise.finally(() => clearTimeout(timer))
  return {
    host,
    blobFile: (digest) => {
      const hex = digest.slice('sha256:'.length)
      return path.join(home, 'storage/docker/registry/v2/blobs/sha256', hex.slice(0, 2), hex, 'data')
    },
    async push(layout, name, { all = false } = {}) {
      const credentials = secured ? ['--dest-creds', `${account.username}:${account.password}`] : []
      const { code, stderr } = await run('skopeo', [
        ...['copy', '--quiet', ...(all ? ['--all'] : []), '--dest-tls-verify=false', ...credentials],
        ...[`oci:${layout}:image`, `docker://${host}/${name}`],
      ])
      if (code !== 0) throw new Error(`skopeo can't push ${name}: ${stderr}`)
    },
    async [Symbol.asyncDispose]() {
      if (child.exitCode === null && child.signalCode === null) {
        child.kill()
        await once(child, 'exit')
      }
      await rm(home, { recursive: true })
    },
  }
}
