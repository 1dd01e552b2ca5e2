// Versions of hypervisors' programs are installed whole or not at all, whatever the other side sends, and through the command line as users do it.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { mkdir, mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, afterEach, beforeEach, test } from 'node:test'
import { gzipSync } from 'node:zlib'
import { packTar, type TarEntry } from 'modern-tar'
import { cloudHypervisorRelease } from '../hypervisors/cloud-hypervisor/release.ts'
import { firecrackerRelease } from '../hypervisors/firecracker/release.ts'
import type { Release } from '../hypervisors/release.ts'
import { createHostHypervisors } from '../host-hypervisors.ts'
import { dataLayout, type DataLayout } from '../files/layout.ts'
import { recordText } from '../files/record-text.ts'
import { findBinaries } from '../platform/binaries.ts'
import { startHypeman, type Outcome } from '../../tests/support/fake-terminal.ts'
import { fetchFile } from './fetch.ts'

const MEMBER = 'release/firecracker'
type Answer = Uint8Array | ((response: ServerResponse) => void)
/** What lies at each path. */
const files = new Map<string, Answer>()
const server = createServer((request, response) => {
  const answer = files.get(request.url ?? '')
  if (answer === undefined) response.writeHead(404).end()
  else if (typeof answer === 'function') answer(response)
  else response.end(answer)
})
server.listen(0, '127.0.0.1')
await once(server, 'listening')
const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
after(() => {
  server.closeAllConnections()
  server.close()
})

const releases: readonly Release[] = [
  {
    ...firecrackerRelease,
    published: (version) => ({
      url: `${base}/${version}.tgz`,
      sha256Url: `${base}/${version}.tgz.sha256.txt`,
      member: MEMBER,
      beside: { member: 'release/jailer', program: 'jailer' },
    }),
  },
  { ...cloudHypervisorRelease, published: (version) => ({ url: `${base}/ch-${version}`, sha256Url: undefined, member: undefined }) },
]

let layout: DataLayout
beforeEach(async () => {
  layout = dataLayout(await mkdtemp(path.join(tmpdir(), 'programs-')))
  files.clear()
})
afterEach(() => rm(layout.root, { recursive: true, force: true }))

function programSaying(text: string): Buffer {
  return Buffer.from(`#!/bin/sh\necho "${text}"\n`)
}

async function archiveOf(entries: readonly TarEntry[]): Promise<Buffer> {
  return gzipSync(await packTar([...entries]))
}

function entry(name: string, body: Buffer): TarEntry {
  return { header: { name, size: body.length, mode: 0o755, type: 'file' }, body }
}

const sumOf = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

/** Publishes an archive, with its checksum unless another is given. */
async function publish(version: string, entries: readonly TarEntry[], sum?: string): Promise<Buffer> {
  const archive = await archiveOf(entries)
  files.set(`/${version}.tgz`, archive)
  files.set(`/${version}.tgz.sha256.txt`, Buffer.from(`${sum ?? sumOf(archive)}  firecracker-v${version}.tgz\n`))
  return archive
}

const goodEntries = (version: string): readonly TarEntry[] => [
  entry('release/firecracker.debug', Buffer.alloc(100_000, 1)),
  entry(MEMBER, programSaying(`Firecracker v${version}`)),
]

function start(...words: string[]): ReturnType<typeof startHypeman> {
  const env = { DATA_DIR: layout.root }
  return startHypeman('http://127.0.0.1:1', ['hypervisor', ...words], {
    env,
    parts: { hypervisors: async () => createHostHypervisors(releases) },
  })
}
const run = (...words: string[]): Promise<Outcome> => start(...words).ended

/** Data directories are given as a word: commander reads the environment of this process. */
const here = (): readonly string[] => ['--data-dir', layout.root]

async function installed(): Promise<readonly string[]> {
  return await readdir(layout.hypervisor('firecracker')).catch(() => [])
}

/** A failure that says what it should, and leaves nothing. */
async function refused(said: RegExp, ...words: string[]): Promise<void> {
  const { code, stderr, stdout } = await run(...words, ...here())
  assert.match(stderr, said)
  assert.deepEqual([code, stdout], [1, ''])
  await nothingIsThere()
}

async function nothingIsThere(): Promise<void> {
  assert.deepEqual(await installed(), [])
  assert.deepEqual(await readdir(layout.staging).catch(() => []), [])
}

test('the jailer of a release is installed beside its program, and goes with it', async () => {
  await publish('1.9.0', [entry('release/jailer', programSaying('Jailer v1.9.0')), ...goodEntries('1.9.0')])
  assert.equal((await run('install', 'firecracker@1.9.0', ...here())).code, 0)
  const directory = path.join(layout.hypervisor('firecracker'), '1.9.0')
  assert.deepEqual((await readdir(directory)).toSorted(), ['firecracker', 'jailer'])
  assert.equal((await stat(path.join(directory, 'jailer'))).mode & 0o777, 0o755)
  assert.equal((await run('remove', 'firecracker@1.9.0', ...here())).code, 0)
  assert.deepEqual(await installed(), [])
})

test('a release is installed when its checksum is right, and new machines start on the newest', async () => {
  for (const version of ['1.9.0', '1.10.1']) await publish(version, goodEntries(version))
  for (const version of ['1.10.1', 'v1.9.0']) {
    const { code, stdout, stderr } = await run('install', `firecracker@${version}`, ...here())
    assert.equal(code, 0, stderr)
    assert.equal(stdout, `${path.join(layout.hypervisor('firecracker'), version.replace('v', ''), 'firecracker')}\n`)
  }
  assert.deepEqual(await readdir(layout.staging), [])
  assert.deepEqual(await readdir(path.join(layout.hypervisor('firecracker'), '1.9.0')), ['firecracker'])
  const wanted = { command: 'firecracker-that-is-nowhere', pattern: firecrackerRelease.versionPattern, advice: 'x' }
  const binaries = findBinaries({ ...wanted, installed: { directory: layout.hypervisor('firecracker'), program: 'firecracker' } })
  assert.equal((await binaries.usual()).version, '1.10.1')
  assert.equal((await binaries.of('1.9.0'))?.version, '1.9.0')
  const { stdout } = await run('list', '--format', 'jsonl', ...here())
  const listed = stdout.trim().split('\n')
  assert.deepEqual(
    listed
      .map((line) => JSON.parse(line) as { hypervisor: string; version: string })
      .filter(({ hypervisor }) => hypervisor === 'firecracker')
      .map(({ version }) => version),
    ['1.10.1', '1.9.0'],
  )
})

test('another checksum than the published or given one is refused, and nothing is installed', async () => {
  await publish('1.0.0', goodEntries('1.0.0'), 'a'.repeat(64))
  await refused(/has the SHA-256 [0-9a-f]{64}, not a{64}/, 'install', 'firecracker@1.0.0')
  await publish('1.0.0', goodEntries('1.0.0'))
  await refused(/has the SHA-256 [0-9a-f]{64}, not b{64}/, 'install', 'firecracker@1.0.0', '--sha256', 'b'.repeat(64))
})

test('a checksum file that holds none is refused', async () => {
  await publish('1.0.0', goodEntries('1.0.0'), 'not found')
  await refused(/is no SHA-256/, 'install', 'firecracker@1.0.0')
})

test('a version that is not published is said to be that, and so is a server that fails', async () => {
  await refused(/there is nothing at .*9\.9\.9\.tgz\.sha256\.txt; check the version/, 'install', 'firecracker@9.9.9')
  files.set('/9.9.9.tgz.sha256.txt', (response) => response.writeHead(500).end())
  await refused(/status 500/, 'install', 'firecracker@9.9.9')
})

test('a download that breaks off leaves nothing', async () => {
  const archive = await publish('1.0.0', goodEntries('1.0.0'))
  files.set('/1.0.0.tgz', (response) => {
    response.writeHead(200, { 'content-length': archive.length })
    response.write(archive.subarray(0, 100), () => response.destroy())
  })
  await refused(/the download of .* broke off/, 'install', 'firecracker@1.0.0')
})

test('a truncated archive is refused though its checksum is right', async () => {
  const archive = await archiveOf(goodEntries('1.0.0'))
  const half = archive.subarray(0, archive.length / 2)
  files.set('/1.0.0.tgz', half)
  await refused(/can't be unpacked/, 'install', 'firecracker@1.0.0', '--sha256', sumOf(half))
})

test('names in the archive lead nowhere: only the program is taken, and only as a plain file', async () => {
  const outside = path.join(layout.root, '..', `${path.basename(layout.root)}-outside`)
  const evil = [entry('../../../../../../../../../..' + outside, Buffer.from('x')), entry(`/${outside}`, Buffer.from('x'))]
  await publish('1.0.0', [...evil, { header: { name: MEMBER, size: 0, type: 'symlink', linkname: '/bin/true' } }])
  await refused(/release\/firecracker is a symlink, not a file/, 'install', 'firecracker@1.0.0')
  await publish('1.0.0', evil)
  await refused(/holds no release\/firecracker/, 'install', 'firecracker@1.0.0')
  await publish('1.0.0', [...evil, ...goodEntries('1.0.0')])
  assert.equal((await run('install', 'firecracker@1.0.0', ...here())).code, 0)
  await assert.rejects(stat(outside))
})

test('a program that says another version, or does not run here, is not installed', async () => {
  await publish('1.0.0', goodEntries('2.0.0'))
  await refused(/says that it is version 2\.0\.0, not 1\.0\.0/, 'install', 'firecracker@1.0.0')
  await publish('1.0.0', [entry(MEMBER, Buffer.from([0x7f, 0x45, 0x4c, 0x46]))])
  await refused(/it is no firecracker for this host/, 'install', 'firecracker@1.0.0')
})

test('an interrupt ends the download and leaves nothing', async () => {
  const archive = await publish('1.0.0', goodEntries('1.0.0'))
  const { promise: asked, resolve } = Promise.withResolvers<void>()
  files.set('/1.0.0.tgz', (response) => {
    response.writeHead(200, { 'content-length': archive.length })
    response.write(archive.subarray(0, 100), () => resolve())
  })
  const running = start('install', 'firecracker@1.0.0', ...here())
  await asked
  running.interrupt()
  assert.equal((await running.ended).code, 130)
  await nothingIsThere()
})

test('a server that stops sending is given up', async () => {
  files.set('/hangs', (response) => {
    response.writeHead(200)
    response.write('x')
  })
  await mkdir(layout.staging)
  const fetching = { signal: new AbortController().signal, tell: () => undefined, patienceMs: 50 }
  await assert.rejects(
    fetchFile(`${base}/hangs`, path.join(layout.staging, 'file'), fetching),
    /nothing came from .* for 0\.05 s; try again/,
  )
})

test('what comes from elsewhere is installed with its checksum only, from a file or an address', async () => {
  const file = path.join(layout.root, 'mine.tgz')
  const archive = await archiveOf(goodEntries('1.0.0'))
  await writeFile(file, archive)
  await refused(/a file is installed with its checksum only; give --sha256/, 'install', 'firecracker@1.0.0', '--from', file)
  assert.equal((await run('install', 'firecracker@1.0.0', '--from', file, '--sha256', sumOf(archive).toUpperCase(), ...here())).code, 0)
  files.set('/mirror', await archiveOf(goodEntries('1.1.0')))
  const sum = sumOf(files.get('/mirror') as Uint8Array)
  assert.equal((await run('install', 'firecracker@1.1.0', '--from', `${base}/mirror`, '--sha256', sum, ...here())).code, 0)
  assert.deepEqual((await installed()).toSorted(), ['1.0.0', '1.1.0'])
})

test('a program that is published as it is, without a checksum, needs one, and lies under the version that it says', async () => {
  const program = programSaying('cloud-hypervisor v41.0.0')
  files.set('/ch-41.0', program)
  await refused(/publishes no checksum beside version 41\.0; .*--sha256/, 'install', 'cloud-hypervisor@41.0')
  const { code, stdout } = await run('install', 'cloud-hypervisor@41.0', '--sha256', sumOf(program), ...here())
  assert.deepEqual([code, stdout], [0, `${path.join(layout.hypervisor('cloud-hypervisor'), '41.0.0', 'cloud-hypervisor')}\n`])
  const again = await run('install', 'cloud-hypervisor@41.0', '--sha256', sumOf(program), ...here())
  assert.match(again.stderr, /it is installed already/)
  assert.equal(again.code, 1)
})

test('a directory of a version without its program is replaced by an installation', async () => {
  await publish('1.0.0', goodEntries('1.0.0'))
  await run('install', 'firecracker@1.0.0', ...here())
  const directory = path.join(layout.hypervisor('firecracker'), '1.0.0')
  await rm(path.join(directory, 'firecracker'))
  await writeFile(path.join(directory, 'notes'), 'of somebody')
  const { code, stderr } = await run('install', 'firecracker@1.0.0', ...here())
  assert.equal(code, 0, stderr)
  assert.deepEqual([await readdir(directory), await readdir(layout.trash)], [['firecracker'], []])
})

test('wrong use is exit code 2 and says how it is right', async () => {
  for (const [words, said] of [
    [['install', 'firecracker'], /write one such as [a-z-]+@1\.10\.1/],
    [['install', 'firecracker@../1'], /names no version/],
    [['install', 'qemu@7.2.0'], /firecracker and cloud-hypervisor can; others come with the host/],
    [['install', 'firecracker@1.0.0', '--sha256', 'abc'], /64 hexadecimal digits/],
  ] as const) {
    const { code, stderr } = await run(...words, ...here())
    assert.equal(code, 2, stderr)
    assert.match(stderr, said)
  }
})

test('a version is removed, but not while an instance or a snapshot with memory may need it, unless forced', async () => {
  await publish('1.0.0', goodEntries('1.0.0'))
  await run('install', 'firecracker@1.0.0', ...here())
  const stamp = { hypervisor: 'firecracker', version: '1.0.0', machineType: 'x', accelerator: 'kvm' }
  const record = async (directory: string, file: string, value: object): Promise<void> => {
    await mkdir(directory, { recursive: true })
    await writeFile(path.join(directory, file), recordText(value))
  }
  await record(layout.instance('a'), 'record.json', { id: 'a', name: 'web', stamp })
  await record(layout.instance('b'), 'record.json', { id: 'b', name: 'other', stamp: { ...stamp, version: '2.0.0' } })
  await record(layout.snapshot('s'), 'snapshot.json', { id: 's', kind: 'Standby', instance: { stamp } })
  await record(layout.snapshot('t'), 'snapshot.json', { id: 't', kind: 'Stopped', instance: { stamp } })
  await writeFile(path.join(layout.snapshot('t'), 'damaged'), '{')
  const refusal = await run('remove', 'firecracker@1.0.0', ...here())
  assert.match(refusal.stderr, /^Error: the instance web, the snapshot s last ran on firecracker 1\.0\.0/)
  assert.deepEqual([refusal.code, await installed()], [1, ['1.0.0']])
  assert.equal((await run('remove', '--force', 'firecracker@1.0.0', ...here())).code, 0)
  assert.deepEqual([await installed(), await readdir(layout.trash)], [[], []])
  const gone = await run('remove', 'firecracker@1.0.0', ...here())
  assert.match(gone.stderr, /is not installed; installed are: none/)
})

test('releases are named for both processors, and for no other', () => {
  assert.deepEqual(firecrackerRelease.published('1.10.1', 'arm64'), {
    url: 'https://github.com/firecracker-microvm/firecracker/releases/download/v1.10.1/firecracker-v1.10.1-aarch64.tgz',
    sha256Url: 'https://github.com/firecracker-microvm/firecracker/releases/download/v1.10.1/firecracker-v1.10.1-aarch64.tgz.sha256.txt',
    member: 'release-v1.10.1-aarch64/firecracker-v1.10.1-aarch64',
    beside: { member: 'release-v1.10.1-aarch64/jailer-v1.10.1-aarch64', program: 'jailer' },
  })
  assert.equal(
    cloudHypervisorRelease.published('41.0', 'x64')?.url,
    'https://github.com/cloud-hypervisor/cloud-hypervisor/releases/download/v41.0/cloud-hypervisor-static',
  )
  for (const release of [firecrackerRelease, cloudHypervisorRelease]) assert.equal(release.published('1.0', 'ppc64'), undefined)
})
