// Every hypervisor goes through the same scenarios, with real guests. The usual run takes the core of them for all but QEMU, whose other tests are about the same;
// `npm run test:hypervisors` takes all for all, and prints the table hypervisor × scenario.

import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { hypervisorScenarios, type HypervisorWorld } from '../support/hypervisor-scenarios.ts'
import { hypervisorsUnderTest, startHypervisor, titleOf } from '../support/hypervisors.ts'
import { tableOf, type Verdict } from '../support/hypervisor-table.ts'

const isWhole = process.env['HYPEMAN_TEST_HYPERVISORS'] !== undefined
const verdicts: Verdict[] = []
const scenarios = hypervisorScenarios.filter(({ core }) => isWhole || core)
after(() => console.log(tableOf(scenarios, verdicts)))

for (const under of hypervisorsUnderTest(process.env['HYPEMAN_TEST_HYPERVISORS'])) {
  const { name, skip } = under
  test(titleOf(under), { skip: skip ?? false }, async (t) => {
    await using started = await startHypervisor(under)
    const { runtimes } = await started.server.client.capabilities.get()
    const own = runtimes.find((runtime) => runtime.name === name)
    assert.equal(own?.available, true, `${name} is available`)
    const world: HypervisorWorld = {
      ...{ ...started, hypervisor: name, cutsStreams: under.cutsStreams === true },
      features: new Set(own.features),
      machine: '',
      snapshot: '',
    }
    for (const scenario of scenarios) {
      const verdict: Verdict = { hypervisor: titleOf(under), scenario: scenario.name, outcome: 'failed', standIn: under.standIn }
      verdicts.push(verdict)
      // What comes later goes on with what this one made: after a failure it shows only that.
      await t.test(scenario.name, async () => {
        verdict.outcome = await scenario.run(world)
      })
    }
  })
}
