// The command line as a new user types it: bin/hypeman in a shell, against a real server, on real machines. One machine is booted and forked for most tests.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import type { Finished } from '../support/command.ts'
import { until } from '../support/until.ts'
import { openScreen, type Screen } from '../support/screen.ts'
import { startServer } from '../support/server.ts'
import { promptOf } from '../support/typed.ts'
import { countVm } from '../support/vm-count.ts'

const server = await startServer()
after(() => server[Symbol.asyncDispose]())
const { line, done, refused } = promptOf(server)

/** Smallest machine that the base image runs in. */
const SMALL = '--memory 192MB --cpus 1 --overlay-size 1GB'
let booted: Finished
before(async () => {
  booted = await line(`hypeman run --name web -e PASSWORD=hush --tag team=a ${SMALL} hypeman/base`)
  if (booted.code !== 0) throw new Error(`${booted.stderr}\n${await server.log()}`)
  countVm('boot web')
  await done('hypeman exec web -- sh -c "echo before > /root/file" && hypeman snapshot create web --name base')
})

/** A fork of web for one test, deleted with it. */
async function fork(name: string): Promise<AsyncDisposable> {
  await done(`hypeman snapshot fork base ${name}`)
  countVm(`fork ${name}`)
  return { [Symbol.asyncDispose]: async () => void (await done(`hypeman rm -f ${name}`)) }
}

/** The command line at a terminal. */
function terminal(...words: string[]): Screen {
  return openScreen(words, { ...server.environment, PATH: process.env['PATH'] ?? '' })
}

const state = (name: string): Promise<string> => done(`hypeman inspect ${name} | grep '"state"' | cut -d'"' -f4`)

test('run waits until the machine runs and prints its id, and nothing else, on standard output', async () => {
  const id = booted.stdout.trimEnd()
  assert.match(id, /^[a-z0-9]{24}$/)
  assert.equal(await done('hypeman ps -q'), id)
  assert.match(booted.stderr, /Waiting until web runs/)
})

test('run -a of a program that is not there ends with 127, says so and leaves a stopped instance that tells why', async () => {
  const { code, stdout } = await line(`hypeman run -a --name bad ${SMALL} hypeman/base /no/such/program`)
  countVm('boot bad')
  assert.equal(code, 127)
  assert.match(stdout, /no\/such\/program/)
  assert.match(await done('hypeman ps -a'), /bad +hypeman\/base:latest +Stopped \(127\)/)
  assert.match(await done('hypeman inspect bad'), /"exit_message": ".*no\/such\/program.*"/)
  assert.equal(await done('hypeman rm bad'), 'bad')
})

test("run --rm shows the program's output, ends with its exit code and leaves only what it wrote to its volume", async () => {
  const volume = await done('hypeman volume create --name data --size 1')
  assert.match(await done('hypeman volume list'), new RegExp(`^${volume.slice(0, 12)} +data +1 GB`, 'm'))
  const program = `sh -c 'echo "hello $WHO" | tee /data/file; echo trouble >&2; exit 5'`
  const { code, stdout } = await line(`hypeman run --rm -v data:/data -e WHO=you ${SMALL} hypeman/base ${program}`)
  countVm('boot --rm')
  assert.deepEqual([code, stdout.trimEnd().split('\n').toSorted()], [5, ['hello you', 'trouble']])
  // What another writes over it is that one's own.
  const over = `hypeman run --rm -v data:/data:overlay=32MB ${SMALL} hypeman/base sh -c 'echo over >>/data/file; cat /data/file'`
  assert.equal(await done(over), 'hello you\nover')
  countVm('boot over the volume')
  assert.equal(await done('hypeman ps -aq | wc -l'), '1')
  assert.equal(await done('hypeman volume delete data && hypeman volume list -q'), 'data')
})

test('ps and inspect show what there is, for people and for programs', async () => {
  const table = (await done('hypeman ps')).split('\n')
  assert.match(table[0] ?? '', /^INSTANCE ID +NAME +IMAGE +STATE +HV +PORTS +CREATED$/)
  assert.match(table[1] ?? '', /^[a-z0-9]{12} +web +hypeman\/base:latest +Running +qemu +.* ago$/)
  const [web] = JSON.parse(await done('hypeman ps --format json')) as { readonly id: string; readonly tags: unknown }[]
  assert.deepEqual(web?.tags, { team: 'a' })
  assert.match(await done('hypeman ps -a --tag team=a --format yaml'), new RegExp(`^- id: ${web?.id}\n {2}name: web\n`))
  assert.equal(await done('hypeman ps -q --tag team=b'), '')
  assert.match(await done(`hypeman inspect ${web?.id.slice(0, 8)}`), /"PASSWORD": "\*\*\*"/)
  assert.match(await done('hypeman inspect --show-env --format yaml web'), /PASSWORD: hush/)
})

test("exec passes on input to its end, output, and the command's exit code", async () => {
  assert.equal(await done('seq 100000 > numbers; cat numbers | hypeman exec web -- sh -c "wc -c" | tr -d " "'), '588895')
  const { code, stdout, stderr } = await line(
    'hypeman exec -e A="b c" --cwd /tmp web -- sh -c "echo $A-\\$A-\\$(pwd); echo oops >&2; exit 9"',
  )
  assert.deepEqual([code, stdout.split('\n').toSorted().join('|'), stderr], [9, '|-b c-/tmp|oops', ''])
  assert.equal((await line('hypeman exec --timeout 1s web sleep 100')).code, 124)
  assert.equal((await line('hypeman exec web /no/such/thing')).code, 127)
  assert.equal(await done('for i in 1 2; do hypeman exec --no-stdin web echo $i; done'), '1\n2')
})

test('exec -it is a terminal in the guest: sizes, keys, Ctrl-C for the program there, its exit code here', async () => {
  await using screen = terminal('exec', '-it', 'web', 'sh')
  const shown = (text: string) => until(`${text} on the screen:\n${screen.lines().join('\n')}`, () => screen.lines().includes(text))
  screen.type('PS1=""; stty -echo; stty size\r')
  await shown('24 80')
  screen.resize(100, 30)
  screen.type('while [ "$(stty size)" != "30 100" ]; do sleep 0.1; done; echo resized\r')
  await shown('resized')
  screen.type('echo begun; sleep 1000; echo never\r')
  await shown('begun')
  screen.type('\x03')
  screen.type('echo "after $((6 * 7))"\r')
  await shown('after 42')
  assert.ok(!screen.lines().includes('never'))
  screen.type('exit 3\r')
  assert.equal(await screen.exitCode, 3)
})

test('cp takes files, directories and tar streams in and out', async () => {
  await done('mkdir -p site/css; echo page > site/index.html; echo red > site/css/a.css; chmod 600 site/index.html')
  await done('hypeman cp site web:/root && hypeman cp site/index.html web:/root/page')
  assert.equal(
    await done('hypeman exec web -- sh -c "cat /root/page /root/site/css/a.css; stat -c %a /root/site/index.html"'),
    'page\nred\n600',
  )
  await done(
    'hypeman cp web:/root/site back && hypeman cp web:/root/site/index.html . && diff -r site back && diff index.html site/index.html',
  )
  await done('hypeman cp web:/root/site/. contents && diff -r site contents')
  assert.match(await done('hypeman cp web:/root/site - | tar -t'), /^site\/css\/a\.css$/m)
  assert.equal(await done('tar -c -C site . | hypeman cp - web:/root/streamed && hypeman exec web cat /root/streamed/css/a.css'), 'red')
  assert.match(await refused(1, 'hypeman cp web:/no/such/file .'), /no\/such\/file/)
  assert.match(await refused(2, 'hypeman cp here there'), /instance:\/path/)
})

test('logs show what the program wrote; followed, they go on until Ctrl-C, which ends with 130', async () => {
  assert.equal(await done('hypeman logs web'), 'hypeman/base is up')
  assert.match(await done('hypeman logs -s vmm web'), /\S/)
  assert.match(await done('hypeman events web'), /Running/)
  await using screen = terminal('logs', '-f', 'web')
  await until('the log is shown', () => screen.lines().includes('hypeman/base is up'))
  screen.type('\x03')
  assert.equal(await screen.exitCode, 130)
  await done('hypeman health')
})

test('snapshots are listed with what they take on disk, forked many at a time, and deleted', async () => {
  const [head = '', row = ''] = (await done('hypeman snapshot list web')).split('\n')
  assert.match(head, /^SNAPSHOT ID +NAME +KIND +SOURCE +HV +ON DISK +COMPRESSED +CREATED$/)
  assert.match(row, /^[a-z0-9]{12} +base +Standby +web +qemu +[\d.]+ MB +.* ago$/)
  const [exact] = JSON.parse(await done('hypeman snapshot list --format json')) as { size_bytes: number; allocated_bytes: number }[]
  assert.ok(exact !== undefined && exact.size_bytes > 2 ** 30 && exact.allocated_bytes < 2 ** 28, JSON.stringify(exact))
  const ids = (await done('hypeman snapshot fork base --count 3 --name-prefix w')).split('\n')
  assert.equal(new Set(ids).size, 3)
  for (const name of ['w-1', 'w-2', 'w-3']) {
    assert.equal(await done(`hypeman exec ${name} -- sh -c 'hostname; cat /root/file'`), `${name}\nbefore`)
    countVm(`fork ${name}`)
  }
  assert.match(await refused(1, 'hypeman snapshot fork base w-1'), /w-1 is taken/)
  assert.equal(await done(`hypeman rm -f ${ids.join(' ')}`), ids.join('\n'))
  const id = await done('hypeman snapshot create web --name brief --tag for=test')
  assert.equal(await done('hypeman snapshot list -q --tag for=test'), id)
  assert.equal(await done('hypeman snapshot delete brief && hypeman snapshot list -q --tag for=test'), 'brief')
})

test('an instance goes to standby and comes back, and goes back to a snapshot when it does not run', async () => {
  await using _sleeper = await fork('sleeper')
  await done('hypeman exec sleeper -- sh -c "echo kept > /run/note"')
  await done('hypeman snapshot create sleeper --name then && hypeman exec sleeper -- sh -c "echo later > /run/note"')
  assert.match(await refused(1, 'hypeman snapshot restore sleeper then'), /Running/)
  assert.equal(await done('hypeman standby sleeper'), 'sleeper')
  assert.equal(await state('sleeper'), 'Standby')
  assert.doesNotMatch(await done('hypeman ps'), /sleeper/)
  assert.match(await refused(1, 'hypeman exec sleeper true'), /current state: Standby/)
  assert.equal(await done('hypeman restore sleeper && hypeman exec sleeper cat /run/note'), 'sleeper\nlater')
  await done('hypeman standby sleeper && hypeman snapshot restore sleeper then')
  countVm('restore sleeper')
  assert.equal(await done('hypeman exec sleeper cat /run/note'), 'kept')
  await done('hypeman snapshot delete then')
})

test('an instance is stopped and started, and rm refuses one that runs', async () => {
  await using _worker = await fork('worker')
  assert.match(await refused(1, 'hypeman rm worker'), /^Error: worker is Running and was not deleted; stop it first, or give --force$/m)
  assert.equal(await done('hypeman stop worker'), 'worker')
  assert.equal(await state('worker'), 'Stopped')
  assert.match(await refused(1, 'hypeman stop worker'), /Stopped/)
  assert.equal(await done('hypeman start worker && hypeman exec worker cat /root/file'), 'worker\nbefore')
  countVm('boot worker')
  assert.equal(await done('hypeman fork --from-running worker worker-2 >id && hypeman rm -f worker-2 no-such-one'), 'worker-2')
})

test('wait ends at the state or at its time, and says which', async () => {
  assert.equal(await done('hypeman wait web --state Running'), 'Running')
  assert.match(
    await refused(1, 'hypeman wait web --state Standby --timeout 300ms'),
    /^web did not become Standby in 300ms: it is Running$/m,
  )
})

test('images are listed, tagged, shown and deleted by each of their names', async () => {
  assert.match(await done('hypeman image list'), /^hypeman\/base:latest +[0-9a-f]{12} +ready +linux\/\w+ +[\d.]+ MB/m)
  await done('hypeman image tag hypeman/base mine:1')
  assert.equal(await done('hypeman image list -q | sort'), 'docker.io/hypeman/base:latest\ndocker.io/library/mine:1')
  assert.match(await done('hypeman image get mine:1'), /"status": "ready"/)
  await done('hypeman image delete mine:1')
  assert.equal(await done('hypeman image list -q'), 'docker.io/hypeman/base:latest')
})
