import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Machine } from './driver.ts'
import { whilePaused } from './paused.ts'

/** What a machine was told and what was done meanwhile, in turn; `fails` is what goes wrong. */
function stage(fails?: string): { readonly machine: Machine; readonly turns: string[]; readonly turn: (what: string) => Promise<void> } {
  const turns: string[] = []
  const turn = async (what: string): Promise<void> => {
    turns.push(what)
    if (what === fails) throw new Error(`${what} failed`)
  }
  const machine = { pause: () => turn('pause'), resume: () => turn('resume') }
  return { machine: machine as unknown as Machine, turns, turn }
}

function run({ machine, turns, turn }: ReturnType<typeof stage>, wasRunning = true): ReturnType<typeof whilePaused<void>> {
  const around = { before: () => turn('before'), after: () => void turns.push('after') }
  return whilePaused(machine, wasRunning, around, () => turn('freeze'))
}

test('programs stand still for no longer than the machine does', async () => {
  const staged = stage()
  const { pausedMs, notResumed } = (await run(staged)).report
  assert.deepEqual(staged.turns, ['before', 'pause', 'freeze', 'resume', 'after'])
  assert.ok(pausedMs >= 0)
  assert.equal(notResumed, undefined)
})

test('a machine that was paused stays paused, and nobody is told', async () => {
  const staged = stage()
  await run(staged, false)
  assert.deepEqual(staged.turns, ['pause', 'freeze'])
})

for (const [fails, turns] of Object.entries({
  before: ['before'],
  pause: ['before', 'pause', 'resume'],
  freeze: ['before', 'pause', 'freeze', 'resume'],
}))
  test(`a machine runs again when its ${fails} fails`, async () => {
    const staged = stage(fails)
    await assert.rejects(run(staged), new RegExp(`${fails} failed`))
    assert.deepEqual(staged.turns, turns)
  })

test('a machine that does not go on is told of, and its programs are not told that it does', async () => {
  const staged = stage('resume')
  assert.match((await run(staged)).report.notResumed ?? '', /resume failed/)
  assert.deepEqual(staged.turns, ['before', 'pause', 'freeze', 'resume'])
})
