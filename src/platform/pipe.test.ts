// Pipes of our own making. That a descriptor arrives at another program is shown with QEMU (hypervisors/qemu/live-memory.test.ts).

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { closeSync, constants, existsSync, openSync, readSync, writeSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect, createServer } from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { openPipe, resizePipe, sendWithDescriptor } from './pipe.ts'

test('what is written at one end comes out at the other, up to what the pipe holds, and then the end', () => {
  using pipe = openPipe(1024 ** 2)
  const data = Buffer.alloc(1024 ** 2, 'pipe')
  assert.equal(writeSync(pipe.writeEnd, data), data.length, 'nobody reads yet')
  pipe.closeWriteEnd()
  const read = Buffer.alloc(data.length)
  for (let at = 0; at < read.length;) at += readSync(pipe.readEnd, read, at, read.length - at, null)
  assert.ok(read.equals(data))
  assert.equal(readSync(pipe.readEnd, read), 0)
})

test('a pipe holds as much as it is told to, by either end, or what the system gives', () => {
  using pipe = openPipe(4096)
  const write = openSync(`/proc/self/fd/${pipe.writeEnd}`, constants.O_WRONLY | constants.O_NONBLOCK)
  assert.equal(writeSync(write, Buffer.alloc(2 ** 21)), 4096)
  resizePipe(pipe.readEnd, 2 ** 16)
  assert.equal(writeSync(write, Buffer.alloc(2 ** 21)), 2 ** 16 - 4096)
  resizePipe(pipe.readEnd, 2 ** 62)
  assert.throws(() => writeSync(write, 'x'), /EAGAIN/, 'a pipe is not as large')
  closeSync(write)
})

test('a pipe that is disposed of is closed, once', () => {
  const pipe = openPipe(4096)
  pipe.closeWriteEnd()
  pipe[Symbol.dispose]()
  for (const end of [pipe.readEnd, pipe.writeEnd]) assert.equal(existsSync(`/proc/self/fd/${end}`), false)
  pipe[Symbol.dispose]()
})

test('the message of a descriptor comes whole; where there is no socket, or nobody at its other end, it is an error', async () => {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'pipe-'))
  const server = createServer().listen(path.join(directory, 'socket'))
  await once(server, 'listening')
  const sender = connect(path.join(directory, 'socket'))
  const [receiver] = (await once(server, 'connection')) as [typeof sender]
  using pipe = openPipe(4096)
  const { fd } = (sender as unknown as { readonly _handle: { readonly fd: number } })._handle
  const heard = once(receiver, 'data')
  sendWithDescriptor(fd, Buffer.from('take this'), pipe.writeEnd)
  assert.equal(String((await heard)[0]), 'take this')
  assert.throws(() => sendWithDescriptor(fd, Buffer.from('take this'), -1), /could not be sent/)
  assert.throws(() => sendWithDescriptor(pipe.writeEnd, Buffer.from('take this'), pipe.readEnd), /could not be sent/)
  receiver.destroy()
  await once(sender, 'close')
  server.close()
  await rm(directory, { recursive: true })
})
