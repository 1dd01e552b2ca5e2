// The fault plan of a fault server: every step of every flow passes here.

import path from 'node:path'
import type { FaultPlan } from '../../../src/platform/flow.ts'
import type { Striker } from './strike.ts'

const root = path.resolve(import.meta.dirname, '../../..')

export function faultPlanOf(striker: Striker): FaultPlan {
  return {
    before: (step) => striker.step(step, 'before', siteOf(new Error('for its stack').stack ?? '')),
    after: (step) => striker.step(step, 'after', undefined),
  }
}

/** `src/<file>:<line>` of whoever called `step`: the first place of the product above flow.ts. */
function siteOf(stack: string): string | undefined {
  const places = [...stack.matchAll(/file:\/\/(\S+?):(\d+):\d+/g)].map(([, file = '', line = '']) => `${path.relative(root, file)}:${line}`)
  return places.find((place) => place.startsWith('src/') && !place.startsWith('src/platform/flow.ts'))
}
