// One fault at the first call of a flow to the file system, then at the second, and so on, until the flow comes through without meeting it.

import assert from 'node:assert/strict'
import type { TestContext } from 'node:test'
import { breakFlow, type Fault } from './run.ts'
import type { Scenario } from './scenario.ts'
import { isWhole } from '../../support/scale.ts'
import { areChosen, isWanted, type Stage } from './stage.ts'

export interface Sweep {
  readonly scenario: Scenario
  readonly what: Fault['what']
  /** The disk stays broken, instead of failing once. */
  readonly lasting: boolean
  /** Tries only every so many calls: from the first on, in the whole run from a random one, so that runs on end come by all of them. */
  readonly every: number
}

/** No flow makes so many calls: then it does not come to an end. */
const MOST_CALLS = 200

export async function sweep(t: TestContext, stage: Stage, { scenario, what, lasting, every }: Sweep): Promise<void> {
  const label = lasting ? `${what} from there on` : what
  const stride = areChosen ? 1 : every
  const first = isWhole ? 1 + Math.floor(Math.random() * stride) : 1
  for (let call = first; call <= MOST_CALLS; call += stride) {
    if (!isWanted(`${scenario.name} | call ${call} | ${label}`)) continue
    let came = true
    await t.test(`call ${call}: ${label}`, async () => {
      try {
        const { struck, ending, verdict } = await breakFlow(await stage.world(), scenario, { at: { call }, what, lasting })
        came = struck !== undefined
        if (came) console.log(`${scenario.name} | call ${call} | ${placeOf(struck)} | ${label}: ${verdict}`)
        else assert.deepEqual([ending, verdict], ['answered', 'done'])
      } catch (error) {
        throw await stage.explain(error)
      }
    })
    if (!came) {
      // What only removes needs no space: on a full disk it is what helps.
      assert.ok(call > first || first > 1 || what === 'enospc', 'no fault ever came')
      return
    }
  }
}

/** Without what differs from run to run. */
function placeOf(struck = ''): string {
  return struck
    .replaceAll(/(?<=[-/])[a-z0-9]{24}(?=[-/]|$)/g, '<id>')
    .replaceAll(/\.[0-9a-f]{12}\.tmp/g, '.tmp')
    .replaceAll(/-[0-9a-f]{12}$/g, '')
}
