import assert from 'node:assert/strict'
import { once } from 'node:events'
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { connect, createServer, type Server, type Socket } from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { test } from 'node:test'
import fc from 'fast-check'
import { until } from '../../tests/support/until.ts'
import { followLog, type LogFollower } from './workload-log.ts'

/** A guest's side of the protocol, which keeps all that was written. */
class Guest implements AsyncDisposable {
  readonly directory = mkdtempSync(path.join(os.tmpdir(), 'log-'))
  output = ''
  /** What hosts asked for, by their offsets, and what the last one says it has. */
  readonly asked: number[] = []
  has = 0
  /** Sent before the answer to a host: what was on its way to another. */
  rest = ''
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  #sent = 0
  #current: Socket | undefined
  readonly #ended = Promise.withResolvers<void>()

  constructor() {
    mkdirSync(path.join(this.directory, 'logs'))
    this.#server = createServer((socket) => {
      this.#sockets.add(socket)
      socket.on('error', () => undefined)
      const lines = createInterface({ input: socket })
      lines.on('line', (line) => this.#take(socket, line))
      lines.on('error', () => undefined) // the connection was cut
    }).listen(path.join(this.directory, 's'))
  }

  #take(socket: Socket, line: string): void {
    const [word, one = '', other = ''] = line.split(' ')
    if (word === 'ACK') this.has = Number(one)
    if (word !== 'LOG') return
    this.asked.push(Number(other))
    this.#current = socket
    this.#sent = Number(other)
    socket.write(`${this.rest}\nLOG ${one}\n`)
    this.send()
  }

  /** Sends what is new, in frames of at most some bytes; the first byte that is kept may be later than what was asked for. */
  send(longest = 7, from = this.#sent): void {
    for (this.#sent = from; this.#sent < this.output.length;) {
      const data = this.output.slice(this.#sent, this.#sent + longest)
      this.#current?.write(`DATA ${this.#sent} ${data.length}\n${data}`)
      this.#sent += data.length
    }
  }

  write(text: string): void {
    this.output += text
    this.send()
  }

  follow(after: number | undefined): LogFollower {
    const open = async (): Promise<Socket> => {
      const socket = connect(path.join(this.directory, 's'))
      await once(socket, 'connect')
      return socket
    }
    return followLog({ directory: () => this.directory, after, connect: open, ended: this.#ended.promise })
  }

  cut(): void {
    for (const socket of this.#sockets) socket.destroy()
  }

  end(): void {
    this.#ended.resolve()
    for (const socket of this.#sockets) socket.end()
  }

  get log(): string {
    return readFileSync(path.join(this.directory, 'logs', 'app.log'), 'utf8')
  }

  async logged(text: string): Promise<void> {
    const found = (): string => {
      try {
        return this.log
      } catch {
        return ''
      }
    }
    await until(`the log is ${JSON.stringify(text)}`, () => found() === text)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut()
    this.#server.close()
    rmSync(this.directory, { recursive: true })
  }
}

test('what the program writes is in the log, and the guest is told', async () => {
  await using guest = new Guest()
  guest.write('before anybody came\n')
  const follower = guest.follow(0)
  await guest.logged(guest.output)
  guest.write('and after\n')
  await guest.logged(guest.output)
  await until('the guest knows', () => guest.has === guest.output.length)
  assert.equal(follower.offset, guest.output.length)
  follower.stop()
  await follower.done
})

test('a connection that breaks loses nothing and repeats nothing', async () => {
  await using guest = new Guest()
  const follower = guest.follow(0)
  for (let round = 0; round < 5; round += 1) {
    guest.write(`round ${round} of output that takes several frames\n`)
    if (round % 2 === 0) guest.cut()
    else follower.reconnect()
    guest.rest = 'DATA 3 9\nof another'
    await guest.logged(guest.output)
  }
  follower.stop()
})

test('the next server goes on where the last one was killed, also in the middle of a line', async () => {
  await using guest = new Guest()
  writeFileSync(path.join(guest.directory, 'logs', 'app.log'), 'of an earlier boot\n')
  const first = guest.follow(0)
  guest.write('one and ')
  await guest.logged('of an earlier boot\none and ')
  first.stop()
  await first.done
  guest.output += 'a half\n'
  const second = guest.follow(undefined)
  await guest.logged('of an earlier boot\none and a half\n')
  assert.equal(guest.asked.at(-1), 8)
  second.stop()
})

test('a log that was rotated meanwhile gets again what the guest still has', async () => {
  await using guest = new Guest()
  const first = guest.follow(0)
  appendFileSync(path.join(guest.directory, 'logs', 'app.log'), 'x')
  guest.write('some words\n')
  await guest.logged('xsome words\n')
  first.stop()
  await first.done
  writeFileSync(path.join(guest.directory, 'logs', 'app.log'), '')
  const second = guest.follow(undefined)
  await guest.logged('some words\n')
  second.stop()
})

test('what was dropped is told in its place', async () => {
  await using guest = new Guest()
  const follower = guest.follow(0)
  guest.write('one ')
  await guest.logged('one ')
  guest.output += 'two three'
  guest.send(7, 8)
  await guest.logged('one \n[hypeman: 4 bytes of output were lost while nobody could take them]\nthree')
  follower.stop()
})

test('a machine that has ended is heard to its last word', async () => {
  await using guest = new Guest()
  const follower = guest.follow(0)
  await until('it is asked', () => guest.asked.length > 0)
  guest.write('last words')
  guest.end()
  await follower.done
  assert.equal(guest.log, 'last words')
})

test('a guest that does not keep to the protocol is asked again, and nothing of it is in the log', async () => {
  await using guest = new Guest()
  const follower = guest.follow(0)
  await until('it is asked', () => guest.asked.length > 0)
  const asked = guest.asked.length
  guest.output = 'good'
  guest.rest = '\nDATA x y\n'
  guest.cut()
  await until('it is asked again', () => guest.asked.length > asked)
  await guest.logged('good')
  follower.stop()
})

test('however the output is cut into frames and the connection into pieces, the log is the output', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.record({ text: fc.string({ minLength: 1, maxLength: 40, unit: 'binary-ascii' }), cut: fc.boolean() }), { maxLength: 6 }),
      async (writes) => {
        await using guest = new Guest()
        const follower = guest.follow(0)
        for (const { text, cut } of writes) {
          guest.write(text)
          if (cut) guest.cut()
        }
        if (guest.output !== '') await guest.logged(guest.output)
        follower.stop()
        await follower.done
      },
    ),
    { numRuns: 8 },
  )
})

test('a log that was cut off or removed while a connection lasts is written on, and its position stays true', async () => {
  await using guest = new Guest()
  const file = path.join(guest.directory, 'logs', 'app.log')
  const first = guest.follow(0)
  guest.write('of before ')
  await guest.logged('of before ')
  truncateSync(file)
  guest.write('cut off ')
  await guest.logged('cut off ')
  rmSync(file)
  guest.write('removed ')
  await guest.logged('removed ')
  first.stop()
  await first.done
  guest.output += 'next'
  const second = guest.follow(undefined)
  await guest.logged('removed next')
  assert.equal(guest.asked.length, 2, 'by one connection each')
  second.stop()
})

test('a log that can not be written is told once, and has all of it when it can again', async (t) => {
  await using guest = new Guest()
  const warnings = t.mock.method(process, 'emitWarning', () => undefined)
  const file = path.join(guest.directory, 'logs', 'app.log')
  mkdirSync(file)
  const follower = guest.follow(0)
  guest.write('kept meanwhile')
  await until('it was tried again and again', () => guest.asked.length > 2)
  assert.equal(warnings.mock.callCount(), 1)
  assert.match(String(warnings.mock.calls[0]?.arguments[0]), /can't be written to .*app\.log \(EISDIR.*it is tried again/)
  rmSync(file, { recursive: true })
  await guest.logged('kept meanwhile')
  rmSync(file)
  mkdirSync(file)
  guest.write('and once more')
  await until('it is told of the next time, too', () => warnings.mock.callCount() === 2)
  follower.stop()
})
