// The power goes off: what was answered as done is there afterwards, and at no instant is anything half there (docs/reliability.md).

import assert from 'node:assert/strict'
import { mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test, type TestContext } from 'node:test'
import { realGuests, standInGuests } from '../support/power-loss/guests.ts'
import { lossesAtAnswers, lossesAtSyncs, lossesBetweenSyncs, lossesWhile, sample, type Loss } from '../support/power-loss/losses.ts'
import { briefly, essentials, everything } from '../support/power-loss/plots.ts'
import { recordingImpossible } from '../support/power-loss/recorded-disk.ts'
import type { Product } from '../support/power-loss/story.ts'
import { survey } from '../support/power-loss/survey.ts'
import { record, type Told } from '../support/power-loss/tell.ts'
import { scaled } from '../support/scale.ts'
import { startServer } from '../support/server.ts'
import { standInProgram } from '../support/stand-in-hypervisor/program.ts'
import { startStandInServer } from '../support/stand-in-hypervisor/server.ts'

/** What chance decides is the same again with the same seed. */
const seed = Number(process.env['HYPEMAN_LOSS_SEED'] ?? Math.floor(Math.random() * 2 ** 16))
/** Syncs of a server on stand-ins after which it is looked, in the whole run. */
const atMost = process.env['HYPEMAN_LOSSES'] === 'all' ? Infinity : 16
const baseImage = path.resolve(import.meta.dirname, '../../.assets/base.oci.tar')
const unsynced = path.join(import.meta.dirname, '../support/power-loss/unsynced.ts')

const assets = await mkdtemp(path.join(os.tmpdir(), 'assets-'))
after(() => rm(assets, { recursive: true }))
// Stand-ins need no kernel, and small ones make small disks.
for (const name of ['vmlinuz', 'initrd.cpio']) await writeFile(path.join(assets, name), name)
await symlink(baseImage, path.join(assets, 'base.oci.tar'))

const standIns: Product = {
  start: startStandInServer,
  settings: { ASSETS_DIR: assets, HYPEMAN_STAND_IN: await standInProgram() },
  serversAtOnce: 2,
  guests: standInGuests,
}
const machines: Product = { start: startServer, settings: {}, serversAtOnce: 1, guests: realGuests }

/** Only in the whole run. */
const wholeOnly = scaled<string | false>({ part: 'it takes long; npm run test:faults runs it', whole: false })

for (const [missing, skip] of [
  ['files', false],
  ['directories', wholeOnly],
  ['everything', wholeOnly],
] as const)
  test(`this test notices a server that does not sync ${missing}`, { skip: skip || recordingImpossible('ext4') }, async () => {
    const settings = { NODE_OPTIONS: `--import=${unsynced}`, HYPEMAN_TEST_UNSYNCED: missing }
    await using told = await record('ext4', standIns, essentials, settings)
    const { failures } = await survey(told, lossesAtAnswers(told), standIns)
    assert.notDeepEqual(failures, [])
  })

for (const [filesystem, skip] of [
  ['ext4', false],
  ['xfs', wholeOnly],
  ['btrfs', wholeOnly],
] as const)
  test(
    `on ${filesystem} what was answered is there after a loss of power, and what is under way undone or done`,
    { skip: skip || recordingImpossible(filesystem) },
    async (context) => {
      await using told = await record(filesystem, standIns, (story) => everything(story, baseImage))
      // A restore in place, where most could be lost, and a fork, which could wake as its source, are looked at closely.
      const inTheMiddle = (): Loss[] => [
        ...lossesWhile(told, /^while (one is put back to warm|two is forked)/),
        ...lossesAnywhere(told, atMost),
      ]
      await demandNothingLost(context, told, [...lossesAtAnswers(told), ...scaled({ part: () => [], whole: inTheMiddle })()], standIns)
    },
  )

test('so it is with real machines', { skip: recordingImpossible('ext4') }, async (context) => {
  await using told = await record('ext4', machines, scaled({ part: briefly, whole: essentials }))
  const losses = scaled({
    part: () => lossesAtAnswers(told).slice(-1),
    whole: () => [...lossesAtAnswers(told), ...lossesAnywhere(told, 1)],
  })
  await demandNothingLost(context, told, losses(), machines)
})

/** So many syncs, and half as often somewhere in between two. */
function lossesAnywhere(told: Told, atMost: number): Loss[] {
  return [...sample(lossesAtSyncs(told), atMost, seed), ...sample(lossesBetweenSyncs(told, seed), atMost / 2, seed)]
}

/** Goes through losses and fails with what was found. */
async function demandNothingLost(context: TestContext, told: Told, losses: readonly Loss[], product: Product): Promise<void> {
  const { failures, different } = await survey(told, losses, product)
  context.diagnostic(
    `${losses.length} losses of power, ${different} different disks; ${lossesAtSyncs(told).length} syncs in all; HYPEMAN_LOSS_SEED=${seed}`,
  )
  assert.equal(failures.length, 0, `${failures.length} are wrong, the first of them:\n${failures.slice(0, 5).join('\n')}`)
}
