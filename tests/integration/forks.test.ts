// Forks of one snapshot share nothing that must be each one's own, and hypeman fork-check finds it when they do. The same with a hundred: npm run test:forks.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { probeDirectory as probes } from '../../src/cli/fork-check/probes.ts'
import { startForkWorld, type ForkWorld } from '../support/fork-world.ts'
import { shell } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { promptOf } from '../support/typed.ts'
import { countVm } from '../support/vm-count.ts'

const server = await startServer()
after(() => server[Symbol.asyncDispose]())
const { line } = promptOf(server)

let world: ForkWorld
before(async () => {
  world = await startForkWorld(server)
})
after(() => world[Symbol.asyncDispose]())

async function instances(): Promise<string[]> {
  return (await server.client.instances.list()).map(({ name }) => name)
}

test('eight forks have randomness, ids, addresses and a clock of their own, and no connection of their source; none is left', async () => {
  const { code, stdout, stderr } = await line('hypeman fork-check warm --count 8 --parallel 4')
  countVm('8 forks')
  assert.equal(code, 0, `${stdout}${stderr}`)
  for (const probe of ['urandom', 'random', 'uuid', 'boot-id', 'machine-id', 'hostname', 'mac', 'instance-id'])
    assert.match(stdout, new RegExp(`^${probe} .* 8 +8 +distinct`, 'm'))
  assert.match(stdout, /^tcp .*none is established$/m)
  assert.match(stdout, /^hook info-shell .* 8 +1 +told +left to programs/m)
  assert.match(stdout, /\n8 forks, 0 collisions\n$/)
  assert.deepEqual(await instances(), ['origin'])
})

test('randomness that was made before the snapshot is found: a collision with the forks that share it, and exit code 1', async () => {
  await shell(
    server,
    world.id,
    `head -c 16 /dev/urandom | od -An -tx1 >/run/pool
     printf '#!/bin/sh\\ncat /run/pool\\n' >${probes}/10-pool
     chmod +x ${probes}/10-pool`,
  )
  await server.client.instances.snapshots.create(world.id, { kind: 'Standby', name: 'pooled' })
  const { code, stdout } = await line('hypeman fork-check pooled --count 3 --json')
  countVm('3 forks')
  assert.equal(code, 1)
  const result = JSON.parse(stdout) as {
    readonly forks: number
    readonly collisions: number
    readonly probes: readonly {
      readonly probe: string
      readonly verdict: string
      readonly shared?: readonly { readonly forks: readonly string[] }[]
    }[]
  }
  assert.deepEqual([result.forks, result.collisions], [3, 1])
  const found = result.probes.filter(({ verdict }) => verdict === 'collision')
  assert.deepEqual(
    found.map(({ probe, shared }) => [probe, shared?.map(({ forks }) => forks.length)]),
    [['hook 10-pool', [3]]],
  )
  assert.deepEqual(await instances(), ['origin'])
})
