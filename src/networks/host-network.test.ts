// The host's network on the real host: devices, rules and ports are there while they are wanted, and those of one data directory are no business of another's.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { test } from 'node:test'
import { anAttachment, free, freshRoot, leadingTo, open, useOf } from '../../tests/support/attachments.ts'
import { run } from '../../tests/support/command.ts'
import { devicesBelow, hasHostNetwork, rulesBelow } from '../../tests/support/host-network.ts'
import { until } from '../../tests/support/until.ts'
import { isHypemanError } from '../api/errors.ts'
import type { Attachment } from './host-network.ts'
import { networkNames } from './names.ts'
import { allocatePorts } from './ports.ts'
import { listDevices } from './tap-device.ts'

const skip = hasHostNetwork ? false : 'needs root and /dev/net/tun'

test(
  'what is attached has a device, limits and rules; what is detached has none of them, also when that is asked for again',
  { skip },
  async () => {
    const root = freshRoot()
    await using network = open(root)
    const attachment = { ...(await anAttachment(network, [free, { ...free, protocol: 'udp' }])), uploadBytesPerSecond: 1_000_000 }
    await network.attach(attachment)
    assert.deepEqual(
      (await devicesBelow(root)).map(({ alias }) => alias),
      [`hypeman ${root} ${attachment.id}`],
    )
    assert.equal(await leadingTo(root, attachment.address), 2)
    await network.detach(attachment.id)
    await network.detach(attachment.id)
    assert.deepEqual([await devicesBelow(root), await leadingTo(root, attachment.address)], [[], 0])
  },
)

test('whether bandwidth can be limited is found out by doing it, by all who ask at once, and leaves no device', { skip }, async () => {
  const root = freshRoot()
  await using network = open(root)
  assert.deepEqual(await Promise.all([network.whyUnlimited(), network.whyUnlimited()]), [undefined, undefined])
  const devices = (await listDevices()).filter((name) => name.startsWith(networkNames(root).shaperPrefix))
  assert.deepEqual(devices, [])
  const searched = process.env['PATH']
  await using lacking = open(freshRoot())
  process.env['PATH'] = '/nowhere'
  try {
    assert.match((await lacking.whyUnlimited()) ?? '', /setpriv|not installed/)
  } finally {
    process.env['PATH'] = searched
  }
  assert.equal(await lacking.whyUnlimited(), undefined)
})

test('a device that is still in use when its guest is detached goes with the next guest, or when the server ends', { skip }, async () => {
  const root = freshRoot()
  {
    await using network = open(root)
    const [one, other] = [await anAttachment(network), { ...(await anAttachment(network)), address: '10.214.0.99' }]
    await network.attach(one)
    await network.attach(other)
    {
      await using _inUse = await useOf(root, one.id)
      await assert.rejects(network.detach(one.id), /TUNSETIFF failed/)
    }
    await network.detach(other.id)
    assert.deepEqual(await devicesBelow(root), [])
    await network.attach(one)
    {
      await using _inUse = await useOf(root, one.id)
      await assert.rejects(network.detach(one.id), /TUNSETIFF failed/)
    }
    assert.equal((await devicesBelow(root)).length, 1)
  }
  assert.deepEqual(await devicesBelow(root), [])
})

test('a published port is taken for everybody else while its guest is attached', { skip }, async () => {
  await using network = open(freshRoot())
  const attachment = await anAttachment(network, [free])
  const wanted = attachment.ports.map((port) => ({ ...port, automatic: false }))
  await network.attach(attachment)
  await assert.rejects(allocatePorts(wanted), (error) => isHypemanError(error, 'port_in_use'))
  await network.detach(attachment.id)
  using again = await allocatePorts(wanted)
  assert.equal(again.ports.length, 1)
})

test('one that can not be attached leaves nothing', { skip }, async () => {
  const root = freshRoot()
  await using network = open(root)
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  const address = taken.address()
  assert.ok(address !== null && typeof address === 'object')
  const attachment = await anAttachment(network)
  await assert.rejects(network.attach({ ...attachment, ports: [{ ...free, hostPort: address.port }] }), (error) =>
    isHypemanError(error, 'port_in_use'),
  )
  taken.close()
  await assert.rejects(network.attach({ ...attachment, address: '10.214.0.300' }))
  assert.deepEqual(await devicesBelow(root), [])
})

test('many at once are attached and detached in any order', { skip }, async () => {
  const root = freshRoot()
  await using network = open(root)
  const all: Attachment[] = []
  for (let count = 0; count < 6; count += 1) all.push(await anAttachment(network, [free], all))
  await Promise.all(all.map((one) => network.attach(one)))
  assert.equal((await devicesBelow(root)).length, 6)
  for (const { address } of all) assert.equal(await leadingTo(root, address), 1)
  await Promise.all(all.slice(1).map(({ id }) => network.detach(id)))
  const [first] = all
  assert.deepEqual([(await devicesBelow(root)).length, await leadingTo(root, first?.address ?? '')], [1, 1])
  await network.detach(first?.id ?? '')
})

test('a server that starts keeps what runs and takes away the rest, of its own data directory alone', { skip }, async () => {
  const [root, otherRoot] = [freshRoot(), freshRoot()]
  await using other = open(otherRoot)
  const bystander = await anAttachment(other)
  await other.attach(bystander)
  const [stays, goes] = await (async () => {
    await using before = open(root)
    const both = [
      await anAttachment(before, [free]),
      { ...(await anAttachment(before, [free])), downloadBytesPerSecond: 1e6, uploadBytesPerSecond: 1e6 },
    ] as const
    for (const one of both) await before.attach(one)
    return both
  })()
  assert.equal((await devicesBelow(root)).length, 2)
  await using after = open(root)
  await after.recover([stays])
  await until('rules are those of what runs', async () => (await leadingTo(root, goes.address)) === 0)
  assert.deepEqual(
    (await devicesBelow(root)).map(({ alias }) => alias.split(' ').at(-1)),
    [stays.id],
  )
  assert.equal(await leadingTo(root, stays.address), 1)
  await assert.rejects(allocatePorts(stays.ports.map((port) => ({ ...port, automatic: false }))), (error) =>
    isHypemanError(error, 'port_in_use'),
  )
  await after.detach(stays.id)
  assert.equal((await devicesBelow(otherRoot)).length, 1)
  await other.detach(bystander.id)
})

test('a server that ends without guests leaves no rule; one that was killed leaves them to the next', { skip }, async () => {
  const root = freshRoot()
  const killed = open(root)
  const attachment = await anAttachment(killed)
  await killed.attach(attachment)
  await killed.detach(attachment.id)
  assert.notDeepEqual(await rulesBelow(root), [])
  {
    await using next = open(root)
    await next.recover([])
    await until('the rules are gone', async () => (await rulesBelow(root)).length === 0)
    await next.attach(attachment)
    await next.detach(attachment.id)
  }
  assert.deepEqual(await rulesBelow(root), [])
})

test('an address that the host routes elsewhere is nobody’s, and one of another subnet is not kept', { skip }, async () => {
  await using network = open(freshRoot())
  const attachment = await anAttachment(network)
  await network.attach(attachment)
  await using other = open(freshRoot())
  assert.equal(await network.isUsable(attachment.address ?? ''), true)
  assert.equal(await other.isUsable(attachment.address ?? ''), false)
  assert.equal(await other.isUsable('10.215.0.7'), false)
  await network.detach(attachment.id)
  assert.equal(await other.isUsable(attachment.address ?? ''), true)
})

test('a subnet that the host has for itself is refused, naming the setting', { skip }, async () => {
  await using network = open(freshRoot())
  const attachment = await anAttachment(network)
  await network.attach(attachment)
  // Devices of guests are no network of the host's own.
  assert.equal(await network.unavailable(), undefined)
  await network.detach(attachment.id)
  const device = `own${process.pid}`
  await run('ip', ['tuntap', 'add', 'dev', device, 'mode', 'tap'])
  try {
    await run('ip', ['address', 'add', '10.216.0.1/24', 'dev', device])
    await run('ip', ['link', 'set', device, 'up'])
    await using own = open(freshRoot(), '10.216.0.0/16')
    assert.match((await own.unavailable()) ?? '', new RegExp(`${device}.*network\\.subnet_cidr`))
    await assert.rejects(own.attach(attachment), (error) => isHypemanError(error, 'host_unavailable'))
  } finally {
    await run('ip', ['link', 'delete', device])
  }
})
