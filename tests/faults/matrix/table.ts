// What became of each flow that was broken, as a table: a row for each step, a column for each fault.

export class OutcomeTable {
  readonly #rows: { readonly flow: string; readonly step: string; readonly outcomes: ReadonlyMap<string, string> }[] = []

  add(flow: string, step: string, outcomes: ReadonlyMap<string, string>): void {
    if (outcomes.size > 0) this.#rows.push({ flow, step, outcomes })
  }

  /** In Markdown; empty without rows. A fault that was not tried at a step has a dash. */
  toString(): string {
    const faults = [...new Set(this.#rows.flatMap(({ outcomes }) => [...outcomes.keys()]))]
    if (faults.length === 0) return ''
    return [
      ['flow', 'step', ...faults],
      ['---', '---', ...faults.map(() => '---')],
      ...this.#rows.map(({ flow, step, outcomes }) => [flow, `\`${step}\``, ...faults.map((fault) => outcomes.get(fault) ?? '–')]),
    ]
      .map((cells) => `| ${cells.join(' | ')} |`)
      .join('\n')
  }
}
