import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { lockDirectory } from './directory-lock.ts'

const directory = mkdtempSync(path.join(os.tmpdir(), 'hypeman-lock-'))
after(() => rmSync(directory, { recursive: true }))

test('a second process is refused and told who holds the lock; the lock dies with its holder', async () => {
  const file = path.join(directory, 'lock')
  const module = new URL('./directory-lock.ts', import.meta.url).href
  const holder = spawn(
    process.execPath,
    [
      '-e',
      `import(${JSON.stringify(module)}).then((m) => { m.lockDirectory(${JSON.stringify(file)}); console.log('held'); setInterval(() => {}, 1e6) })`,
    ],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  )
  await once(holder.stdout, 'data')
  assert.throws(() => lockDirectory(file), new RegExp(`pid ${holder.pid}`))
  holder.kill('SIGKILL')
  await once(holder, 'exit')
  lockDirectory(file)[Symbol.dispose]()
})
