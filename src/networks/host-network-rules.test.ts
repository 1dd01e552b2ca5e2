// The rules that hold guests on the real host: whoever is kept on the proxy, and to their own address, is so as long as there may be a guest.

import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { anAttachment, free, freshRoot, leadingTo, open, useOf } from '../../tests/support/attachments.ts'
import { devicesBelow, hasHostNetwork, rulesBelow } from '../../tests/support/host-network.ts'
import { isHypemanError } from '../api/errors.ts'
import { networkNames } from './names.ts'

const skip = hasHostNetwork ? false : 'needs root and /dev/net/tun'

/** How many rules say what a guest of the proxy may not do, send as or ask, told by its device. */
const restraining = async (root: string, id: string): Promise<number> => {
  const device = networkNames(root).tap(id)
  return (await rulesBelow(root, '-A HYPEMAN-')).filter((line) => line.includes(` -i ${device} `)).length
}

test(
  'a guest of the proxy is kept on it from before its device is in use, over another server, until its device is gone',
  { skip },
  async () => {
    const root = freshRoot()
    const attachment = { ...(await anAttachment(open(root))), egress: 'all' } as const
    {
      await using network = open(root)
      await network.attach(attachment)
      assert.equal(await restraining(root, attachment.id), 6)
    }
    assert.equal(await restraining(root, attachment.id), 6, 'without a server, too')
    await using next = open(root)
    await next.recover([attachment])
    await next.settled()
    assert.equal(await restraining(root, attachment.id), 6)
    {
      await using _inUse = await useOf(root, attachment.id)
      await assert.rejects(next.detach(attachment.id), /TUNSETIFF failed/)
      assert.equal(await restraining(root, attachment.id), 6, 'one that can not be taken away is still kept on it')
    }
    await next.detach(attachment.id)
    assert.deepEqual([await devicesBelow(root), await restraining(root, attachment.id)], [[], 0])
  },
)

test('rules stay when the server ends, as long as a device that could not be removed may have a guest', { skip }, async () => {
  const root = freshRoot()
  const network = open(root)
  const attachment = { ...(await anAttachment(network)), egress: 'all' } as const
  await network.attach(attachment)
  {
    await using _inUse = await useOf(root, attachment.id)
    await assert.rejects(network.detach(attachment.id), /TUNSETIFF failed/)
    await network[Symbol.asyncDispose]()
    assert.equal(await restraining(root, attachment.id), 6)
  }
  await using next = open(root)
  await next.recover([])
  await next.settled()
  assert.deepEqual([await devicesBelow(root), await rulesBelow(root)], [[], []])
})

test('rules that could not be changed when their guest went are changed with the next one', { skip }, async () => {
  const root = freshRoot()
  await using network = open(root)
  const [one, other] = [await anAttachment(network, [free]), { ...(await anAttachment(network)), address: '10.214.0.99' }]
  await network.attach(one)
  await network.attach(other)
  {
    await using _broken = await brokenTool('iptables-restore')
    await assert.rejects(network.detach(one.id), /iptables-restore/)
  }
  assert.equal(await leadingTo(root, one.address), 1)
  await network.detach(other.id)
  assert.deepEqual([await leadingTo(root, one.address), await devicesBelow(root)], [0, []])
})

test('the rules of a guest that goes are changed once, also where it has a port and is kept on the proxy', { skip }, async () => {
  const root = freshRoot()
  await using network = open(root)
  const stays = { ...(await anAttachment(network)), address: '10.214.0.99' }
  await network.attach(stays)
  for (const [ports, egress] of [
    [[free], 'all'],
    [[free], null],
    [[], 'all'],
  ] as const) {
    const attachment = { ...(await anAttachment(network, ports)), egress }
    await network.attach(attachment)
    assert.equal(await leadingTo(root, attachment.address), ports.length)
    {
      await using tool = await otherTool('iptables-restore', 'echo >>"$0.calls"; PATH=${PATH#*:}; exec iptables-restore "$@"')
      await network.detach(attachment.id)
      assert.equal((await readFile(path.join(tool.directory, 'iptables-restore.calls'), 'utf8')).length, 1, `${ports.length} ${egress}`)
    }
    assert.equal(await leadingTo(root, attachment.address), 0)
    if (egress !== null) assert.equal(await restraining(root, attachment.id), 0)
  }
  await network.detach(stays.id)
})

/** Until that is disposed of, the tool fails. */
const brokenTool = (name: string): Promise<AsyncDisposable> => otherTool(name, 'exit 1')

/** Until that is disposed of, a script is in the place of the tool. */
async function otherTool(name: string, script: string): Promise<{ readonly directory: string } & AsyncDisposable> {
  const directory = await mkdtemp(path.join(tmpdir(), 'other-tool-'))
  await writeFile(path.join(directory, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
  const before = process.env['PATH']
  process.env['PATH'] = `${directory}:${before}`
  return {
    directory,
    async [Symbol.asyncDispose]() {
      process.env['PATH'] = before
      await rm(directory, { recursive: true })
    },
  }
}

test('a guest that comes again with another address is not held to the one that it had', { skip }, async () => {
  const root = freshRoot()
  await using network = open(root)
  const [one, other] = [await anAttachment(network, [free]), { ...(await anAttachment(network)), address: '10.214.0.99' }]
  const sources = async (): Promise<readonly string[]> =>
    (await rulesBelow(root, '-A HYPEMAN-')).flatMap((line) =>
      line.includes(` -i ${networkNames(root).tap(one.id)} `) ? (/ ! -s (\S+)\/32 /.exec(line)?.[1] ?? []) : [],
    )
  await network.attach(one)
  assert.deepEqual(await sources(), [one.address])
  await network.detach(one.id)
  await network.attach({ ...one, address: other.address, ports: [] })
  assert.deepEqual(await sources(), [other.address])
  await network.detach(one.id)
})

test('a guest whose record can not be read is kept from going out directly, and may not ask the proxy either', { skip }, async () => {
  const root = freshRoot()
  const killed = open(root)
  const attachment = { ...(await anAttachment(killed)), egress: 'http_https_only' } as const
  await killed.attach(attachment)
  {
    await using next = open(root)
    await next.recover([], new Set([attachment.id]))
    await next.settled()
    assert.equal(await restraining(root, attachment.id), 7)
  }
  assert.equal(await restraining(root, attachment.id), 7)
  await using last = open(root)
  await last.recover([], new Set([attachment.id]))
  await last.detach(attachment.id)
  assert.deepEqual([await devicesBelow(root), await restraining(root, attachment.id)], [[], 0])
  await killed[Symbol.asyncDispose]()
})

test('where the proxy can not listen, no guest of it is attached, and nothing of it is left', { skip }, async () => {
  const [root, otherRoot] = [freshRoot(), freshRoot()]
  await using one = open(otherRoot)
  const first = { ...(await anAttachment(one)), egress: 'all' } as const
  await one.attach(first)
  await using other = open(root)
  const second = { ...(await anAttachment(other)), egress: 'all' } as const
  await assert.rejects(
    other.attach(second),
    (error) => isHypemanError(error, 'host_unavailable') && /network\.egress_port/.test(error.message),
  )
  assert.deepEqual(await devicesBelow(root), [])
  await one.detach(first.id)
  await one[Symbol.asyncDispose]()
  await other.attach(second)
  assert.equal((await devicesBelow(root)).length, 1)
  await other.detach(second.id)
})
