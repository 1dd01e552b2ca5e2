// The table hypervisor × scenario.

/** What a scenario came to, where it did not fail: `refused` by name, since the hypervisor lacks what is wanted; `not here`: the host or the server lacks it. */
export type Outcome = 'done' | 'refused' | 'not here'

export interface Verdict {
  readonly hypervisor: string
  readonly scenario: string
  readonly standIn: boolean
  outcome: Outcome | 'failed'
}

const words = { done: 'yes', refused: 'refused', 'not here': '-', failed: 'NO' } as const satisfies Record<Verdict['outcome'], string>

/** A line for each scenario, a column for each hypervisor: `yes`, `NO`, `refused`, or `-` where it was not tried. */
export function tableOf(scenarios: readonly { readonly name: string }[], verdicts: readonly Verdict[]): string {
  const columns = [...new Set(verdicts.map(({ hypervisor }) => hypervisor))]
  const width = Math.max(0, ...scenarios.map(({ name }) => name.length))
  const cell = (hypervisor: string, scenario: string): string => {
    const verdict = verdicts.find((one) => one.hypervisor === hypervisor && one.scenario === scenario)
    return words[verdict?.outcome ?? 'not here'].padEnd(widthOf(hypervisor))
  }
  const heads = columns.map((hypervisor) => `${hypervisor}${isStandIn(verdicts, hypervisor) ? '*' : ''}`.padEnd(widthOf(hypervisor)))
  const lines = scenarios.map(({ name }) => `${name.padEnd(width)}  ${columns.map((hypervisor) => cell(hypervisor, name)).join('  ')}`)
  const note = verdicts.some(({ standIn }) => standIn)
    ? ['* a stand-in speaks its API and runs the guest on QEMU (tests/vmm-stand-in)']
    : []
  return [`${''.padEnd(width)}  ${heads.join('  ')}`, ...lines, ...note].map((line) => line.trimEnd()).join('\n')
}

/** Of a column, with room for the mark of a stand-in. */
function widthOf(hypervisor: string): number {
  return Math.max(hypervisor.length + 1, ...Object.values(words).map(({ length }) => length))
}

function isStandIn(verdicts: readonly Verdict[], hypervisor: string): boolean {
  return verdicts.some((verdict) => verdict.hypervisor === hypervisor && verdict.standIn)
}
