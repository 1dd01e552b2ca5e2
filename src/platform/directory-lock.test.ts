import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { diskMissing, mountDisk } from '../../tests/support/loop-disk.ts'
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

test('who removes the lock file frees nothing', async () => {
  const file = path.join(directory, 'removed')
  using _held = lockDirectory(file)
  rmSync(file)
  assert.throws(() => lockDirectory(file), /uses this data directory/)
})

test('a lock file that is a link is refused, and what it leads to stays as it is', () => {
  const [file, outside] = [path.join(directory, 'link'), path.join(directory, 'precious')]
  writeFileSync(outside, 'a longer text than a pid')
  symlinkSync(outside, file)
  assert.throws(() => lockDirectory(file), /ELOOP/)
  assert.equal(readFileSync(outside, 'utf8'), 'a longer text than a pid')
  lockDirectory(path.join(directory, 'lock'))[Symbol.dispose]()
})

test('on a disk that is full since an earlier server ran, another one starts', { skip: diskMissing('ext4') }, async () => {
  await using disk = await mountDisk('ext4', 8)
  const file = path.join(disk.path, 'lock')
  writeFileSync(file, 'pid 1234567890123\n')
  await disk.fill(0)
  using _held = lockDirectory(file)
  assert.equal(readFileSync(file, 'utf8'), `pid ${process.pid}\n`)
})
