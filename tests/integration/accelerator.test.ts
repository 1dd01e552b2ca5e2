// The KVM probe must be able to say yes: the same boot that judges KVM, under emulation, with the guest kernel of the set-up.

import assert from 'node:assert/strict'
import path from 'node:path'
import { test } from 'node:test'
import { bootKernel } from '../../src/platform/accelerator.ts'
import { countVm } from '../support/vm-count.ts'

const kernel = path.join(import.meta.dirname, '..', '..', '.assets', 'vmlinuz')
const qemu = 'qemu-system-x86_64'

test('a kernel that boots is recognised', async () => {
  const result = await bootKernel({ qemu, kernel, accelerator: 'tcg', limitMs: 120_000 })
  assert.equal(result.booted, true, JSON.stringify(result))
  countVm('accelerator probe')
})

test('a kernel that does not get far enough within the limit is not taken for one that boots, and its QEMU is gone', async () => {
  const result = await bootKernel({ qemu, kernel, accelerator: 'tcg', limitMs: 50 })
  assert.deepEqual(result, { booted: false, reason: 'a kernel does not boot within 50 ms' })
})
