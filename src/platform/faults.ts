// Faults by step, for tests: `snapshot.create/commit@after:kill, image.convert/commit@before:enospc`. A server has none unless it is told so.

import { HypemanError } from '../api/errors.ts'
import type { FaultPlan } from './flow.ts'

const faultPattern = /^(?<step>[a-z.-]+\/[a-z-]+)@(?<when>before|after):(?<what>throw|kill|enospc|eio)$/

const kinds = ['throw', 'kill', 'enospc', 'eio'] as const

interface Fault {
  readonly step: string
  readonly when: 'before' | 'after'
  readonly what: (typeof kinds)[number]
}

/** Each fault strikes every time its step comes by. */
export function parseFaults(text: string): FaultPlan {
  const faults = text
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '')
    .map(parseFault)
  const strike = (when: Fault['when'], step: string): Promise<void> | void => {
    const fault = faults.find((one) => one.when === when && one.step === step)
    return fault === undefined ? undefined : act(fault)
  }
  return { before: (step) => strike('before', step), after: (step) => strike('after', step) }
}

function parseFault(text: string): Fault {
  const { step, when, what } = faultPattern.exec(text)?.groups ?? {}
  const kind = kinds.find((one) => one === what)
  if (step === undefined || (when !== 'before' && when !== 'after') || kind === undefined)
    throw new HypemanError('invalid_request', `${text} is not a fault; write flow/step@before:throw (or after; kill, enospc or eio)`)
  return { step, when, what: kind }
}

function act({ step, when, what }: Fault): Promise<void> {
  switch (what) {
    case 'throw':
      throw new Error(`fault injected ${when} ${step}`)
    case 'enospc':
      throw Object.assign(new Error(`ENOSPC: no space left on device (injected ${when} ${step})`), { code: 'ENOSPC' })
    case 'eio':
      throw Object.assign(new Error(`EIO: i/o error (injected ${when} ${step})`), { code: 'EIO' })
    case 'kill':
      process.kill(process.pid, 'SIGKILL')
      return new Promise(() => undefined) // nothing comes after the signal
    default:
      return what satisfies never
  }
}
