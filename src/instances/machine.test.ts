import assert from 'node:assert/strict'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { test } from 'node:test'
import { testContext } from '../../tests/support/instance-context.ts'
import { createStandIn } from '../../tests/support/stand-in-hypervisor/driver.ts'
import { isHypemanError } from '../api/errors.ts'
import type { Hypervisor, HypervisorName } from '../hypervisors/driver.ts'
import { agentOf, memoryOf, openAgent } from './machine.ts'

test('an agent that is reached for when its VMM has just ended is an error for who asks for it, and for nobody else', async (t) => {
  await using world = await testContext()
  const entry = await world.add()
  const ended = t.mock.fn()
  process.once('unhandledRejection', ended)
  void openAgent(entry, world.context, true)
  await nextTurn()
  await nextTurn()
  process.off('unhandledRejection', ended)
  assert.equal(ended.mock.callCount(), 0)
  await assert.rejects(agentOf(entry, world.context, AbortSignal.timeout(1_000)), (error) => isHypemanError(error, 'guest_unreachable'))
})

test('a hypervisor that can not save memory says so, and one that is not here, too', async () => {
  const { memory: _, ...forgetful } = createStandIn({ name: 'qemu', program: '' })
  const drivers = new Map<HypervisorName, Hypervisor>([['qemu', forgetful]])
  await using world = await testContext({ drivers })
  for (const [hypervisor, words] of [['qemu', /save a guest's memory/] as const, ['firecracker', /not available/] as const])
    assert.throws(
      () => memoryOf(world.context, { hypervisor }),
      (error) => isHypemanError(error, 'not_supported') && words.test(error.message),
    )
})
