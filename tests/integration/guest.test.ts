// What only a guest can show of its agent: a fork's connections and hooks, volumes that are left clean.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, writeFile } from 'node:fs/promises'
import net from 'node:net'
import path from 'node:path'
import { after, test } from 'node:test'
import { runMachine, shell } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { countVm } from '../support/vm-count.ts'

const server = await startServer()
const { client } = server
after(() => server[Symbol.asyncDispose]())

/** A server on this host that accepts, and says and closes nothing. */
async function listenSilently(): Promise<AsyncDisposable & { readonly port: number }> {
  const sockets = new Set<net.Socket>()
  const listener = net.createServer((socket) => void sockets.add(socket.on('error', () => undefined))).listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const address = listener.address()
  return {
    port: typeof address === 'object' && address !== null ? address.port : 0,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      listener.close()
      await once(listener, 'close')
    },
  }
}

test("a fork's inherited connections are reset, its hooks have run, and what was added to its hosts is kept; the source knows nothing of it", async () => {
  await using outside = await listenSilently()
  const origin = await runMachine(server, { name: 'origin' })
  await shell(
    server,
    origin,
    `(sleep 1000 | nc 10.0.2.2 ${outside.port}) >/dev/null 2>&1 &
     (sleep 1000 | nc -l -p 7000 & sleep 1; sleep 1000 | nc 127.0.0.1 7000) >/dev/null 2>&1 &
     echo '10.9.9.9 database' >>/etc/hosts
     mkdir -p /etc/hypeman/fork.d
     printf '#!/bin/sh\\necho "$HYPEMAN_REASON $HYPEMAN_GENERATION $(hostname)" >/run/hook\\n' >/etc/hypeman/fork.d/10-note
     chmod +x /etc/hypeman/fork.d/10-note`,
  )
  await shell(
    server,
    origin,
    `until netstat -tn | grep -q '10.0.2.2:${outside.port} *ESTABLISHED' && netstat -tn | grep -q ':7000 *ESTABLISHED'; do sleep 0.1; done`,
  )
  const snapshot = await client.instances.snapshots.create(origin, { kind: 'Standby' })
  const fork = await client.snapshots.fork(snapshot.id, { name: 'forked' })
  countVm('fork')
  await shell(server, fork.id, `until ! netstat -tn | grep -q '10.0.2.2:${outside.port} *ESTABLISHED'; do sleep 0.1; done`)
  assert.equal(await shell(server, fork.id, `netstat -tn | grep -c ':7000 *ESTABLISHED'`), '1')
  assert.match(await shell(server, fork.id, 'cat /run/hook'), /^fork \d+ forked$/)
  assert.match(await shell(server, fork.id, 'cat /etc/hosts'), /forked\n10\.9\.9\.9 database$/)
  assert.match(await shell(server, fork.id, 'cat /run/hypeman/generation'), new RegExp(`"instance_id":"${fork.id}"`))
  assert.match(await shell(server, origin, `netstat -tn; ls /run`), new RegExp(`10\\.0\\.2\\.2:${outside.port} *ESTABLISHED`))
  assert.doesNotMatch(await shell(server, origin, 'ls /run'), /hook/)

  await shell(
    server,
    fork.id,
    `printf '#!/bin/sh\\necho no credentials; exit 3\\n' >/etc/hypeman/fork.d/20-fails; chmod +x /etc/hypeman/fork.d/20-fails`,
  )
  await assert.rejects(client.instances.fork(fork.id, { name: 'never', from_running: true }), /20-fails: ended with code 3: no credentials/)
  assert.deepEqual((await client.instances.list()).map(({ name }) => name).toSorted(), ['forked', 'origin'])
  for (const id of [fork.id, origin]) await client.instances.delete(id)
  await client.snapshots.delete(snapshot.id)
})

test('a volume made from an archive is mounted with its files, and left clean when its machine stops', async () => {
  const tree = await mkdtemp(path.join(server.dataDirectory, '..', 'tree-'))
  await writeFile(path.join(tree, 'file'), 'from the archive\n')
  const archive = path.join(tree, '..', 'tree.tar.gz')
  execFileSync('tar', ['-czf', archive, '--owner=1234', '--group=5678', '--mode=0640', '-C', tree, 'file'])
  const volume = await client.volumes.createFromArchive(await readFile(archive), { name: 'data', size_gb: 1 })
  const id = await runMachine(server, { name: 'writer', volumes: [{ volume_id: volume.id, mount_path: '/data' }] })
  assert.equal(await shell(server, id, 'cat /data/file; stat -c "%u %g %a" /data/file'), 'from the archive\n1234 5678 640')
  await shell(server, id, 'echo written >/data/written; (while :; do echo x >>/data/busy; done) >/dev/null 2>&1 &')
  await client.instances.stop(id)
  const image = path.join(server.dataDirectory, 'volumes', volume.id, 'disk.raw')
  const summary = execFileSync('dumpe2fs', ['-h', image], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  assert.match(summary, /Filesystem state: +clean/)
  assert.doesNotMatch(summary, /needs_recovery/)
  execFileSync('e2fsck', ['-fn', image], { stdio: 'pipe' })
  assert.equal(
    execFileSync('debugfs', ['-R', 'cat /written', image], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }),
    'written\n',
  )
  await client.instances.delete(id)
  await client.volumes.delete(volume.id)
})

test('megabytes pass through the agent of a machine both ways', async () => {
  const id = await runMachine(server, { name: 'busy' })
  const began = performance.now()
  assert.equal(await shell(server, id, 'head -c 20000000 /dev/zero | tr "\\0" x | wc -c'), '20000000')
  const output = await shell(server, id, 'head -c 20000000 /dev/zero | tr "\\0" x')
  assert.equal(output.length, 20_000_000)
  console.log(`${Math.round(performance.now() - began)} ms`)
  await client.instances.delete(id)
})
