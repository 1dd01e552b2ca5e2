// The table hypervisor × scenario.

export interface Verdict {
  readonly hypervisor: string
  readonly scenario: string
  readonly standIn: boolean
  passed: boolean
}

/** A line for each scenario, a column for each hypervisor: `yes`, `NO`, or `-` where it was not tried. */
export function tableOf(scenarios: readonly { readonly name: string }[], verdicts: readonly Verdict[]): string {
  const columns = [...new Set(verdicts.map(({ hypervisor }) => hypervisor))]
  const width = Math.max(0, ...scenarios.map(({ name }) => name.length))
  const cell = (hypervisor: string, scenario: string): string => {
    const verdict = verdicts.find((one) => one.hypervisor === hypervisor && one.scenario === scenario)
    return (verdict === undefined ? '-' : verdict.passed ? 'yes' : 'NO').padEnd(hypervisor.length + 1)
  }
  const heads = columns.map((hypervisor) => `${hypervisor}${isStandIn(verdicts, hypervisor) ? '*' : ' '}`)
  const lines = scenarios.map(({ name }) => `${name.padEnd(width)}  ${columns.map((hypervisor) => cell(hypervisor, name)).join('  ')}`)
  const note = verdicts.some(({ standIn }) => standIn)
    ? ['* a stand-in speaks its API and runs the guest on QEMU (tests/vmm-stand-in)']
    : []
  return [`${''.padEnd(width)}  ${heads.join('  ')}`, ...lines, ...note].map((line) => line.trimEnd()).join('\n')
}

function isStandIn(verdicts: readonly Verdict[], hypervisor: string): boolean {
  return verdicts.some((verdict) => verdict.hypervisor === hypervisor && verdict.standIn)
}
