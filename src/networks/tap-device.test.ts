// Tap devices are given to users, and replaced as soon as nobody has them open.

import assert from 'node:assert/strict'
import { open, readFile, type FileHandle } from 'node:fs/promises'
import { after, test } from 'node:test'
import { hasHostNetwork } from '../../tests/support/host-network.ts'
import { giveTap } from '../platform/tap.ts'
import { ioctl, TUNSETIFF, tapRequest } from '../platform/ioctl.ts'
import { isDevice, makeTap, removeTap } from './tap-device.ts'

const skip = hasHostNetwork ? false : 'needs root and /dev/net/tun'
const name = `hmo${process.pid}`
after(() => (isDevice(name) ? removeTap(name) : undefined))

async function userOf(device: string): Promise<FileHandle> {
  const user = await open('/dev/net/tun', 'r+')
  assert.equal(ioctl(user.fd, TUNSETIFF, tapRequest(device)), 0)
  return user
}

test('a device is given to a user, unless somebody has it open', { skip }, async () => {
  await assert.rejects(giveTap('hm/none', 1000), { code: 'host_unavailable', message: /hm\/none can't be given/ })
  await makeTap({ name, alias: 'x', addresses: null, fromLoopback: false })
  const user = await userOf(name)
  await assert.rejects(giveTap(name, 1000), { code: 'host_unavailable', message: /errno 16/ })
  await user.close()
  await giveTap(name, 1000)
  assert.equal((await readFile(`/sys/class/net/${name}/owner`, 'utf8')).trim(), '1000')
})

test('a device that somebody has open is replaced when it is let go', { skip }, async () => {
  await makeTap({ name, alias: 'first', addresses: null, fromLoopback: false })
  const user = await userOf(name)
  const made = makeTap({ name, alias: 'second', addresses: null, fromLoopback: false })
  await user.close()
  await made
  assert.equal((await readFile(`/sys/class/net/${name}/ifalias`, 'utf8')).trim(), 'second')
})
