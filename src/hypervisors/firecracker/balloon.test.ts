import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { paperFirecracker } from '../../../tests/support/paper-firecracker.ts'
import { FirecrackerMachine } from './machine.ts'

const host = await paperFirecracker()
after(() => host[Symbol.asyncDispose]())
const { driver, memory } = host
const never = new AbortController().signal

test('memory is taken back by the balloon, in copies as well, as far as the guest gives', async () => {
  const { machine, spec } = await host.start()
  const payload = await host.directory()
  await memory.capture(machine, spec, payload, never)
  assert.ok(driver.balloon)
  for (const one of [machine, (await host.fork(payload)).machine]) {
    await driver.balloon.ask(one, 3 * 1024 ** 2, never)
    assert.ok(one instanceof FirecrackerMachine)
    assert.partialDeepStrictEqual(await one.ask({ method: 'GET', path: '/balloon' }), { amount_mib: 3, deflate_on_oom: true })
    assert.equal(await driver.balloon.given(one, never), 0, 'a guest without a driver for it gives nothing')
    one.ask = () => Promise.resolve({ target_pages: 768, actual_pages: 512, target_mib: 3, actual_mib: 2 })
    assert.equal(await driver.balloon.given(one, never), 2 * 1024 ** 2)
  }
  const { machine: other } = await host.start()
  await assert.rejects(driver.balloon.ask(other, 1024 ** 3, never), /refused PATCH \/balloon/)
})
