// A template that is being made, and an instance that begins with one, are broken at each of their steps, on a real server with stand-in machines: whatever
// happens, the instance is there or not, whole and with an identity of its own, and of the template nothing is left but a whole one.

import assert from 'node:assert/strict'
import { readdir, readFile, rm } from 'node:fs/promises'
import path from 'node:path'
import { after, test } from 'node:test'
import { dataLayout, templateFiles } from '../../src/files/layout.ts'
import { scaled } from '../support/scale.ts'
import { contentOf, standIn, startStandInServer } from '../support/stand-in-hypervisor/server.ts'
import { until } from '../support/until.ts'
import { vmmsOf } from '../support/vmm.ts'

const server = await startStandInServer({ TEMPLATES: 'true' })
after(() => server[Symbol.asyncDispose]())
const layout = dataLayout(server.dataDirectory)
const limits = { TIMEOUTS__BOOT: '10s' }

const source = await readFile(path.join(import.meta.dirname, '../../src/instances/template-make.ts'), 'utf8')
// Guests of the stand-in have no network here.
const makingSteps = [...source.matchAll(/step\(flow, '([a-z-]+)'/g)].map((match) => match[1] ?? '').filter((step) => step !== 'network')

test('the steps of making a template are known', () => {
  assert.ok(makingSteps.length > 5, makingSteps.join(', '))
})

const body = { ...standIn, cmd: ['sleep', '1000'] }

async function createRunning(name: string): Promise<string> {
  const { id } = await server.client.instances.create({ ...body, name })
  const { state } = await server.client.instances.wait(id, { state: 'Running', timeout: '30s' })
  assert.equal(state, 'Running')
  return id
}

/** Nothing half made, and a process for each instance that runs. */
async function assertTidy(): Promise<void> {
  for (const directory of [layout.staging, layout.trash]) assert.deepEqual(await readdir(directory), [])
  const running = (await server.client.instances.list()).filter(({ state }) => state === 'Running')
  assert.equal(vmmsOf(server).length, running.length)
  for (const key of await readdir(layout.templates))
    assert.deepEqual((await readdir(layout.template(key))).toSorted(), Object.values(templateFiles).toSorted(), 'a template is whole')
}

async function withoutTemplates(faults: string): Promise<void> {
  for (const key of await readdir(layout.templates)) await rm(layout.template(key), { recursive: true })
  await server.restart({ TEMPLATES: 'true', HYPEMAN_FAULTS: faults, ...limits })
}

for (const [index, step] of makingSteps.entries())
  for (const fault of scaled({
    part: index % 3 === 1 ? ['after:throw'] : [],
    whole: [index % 2 === 0 ? 'before:enospc' : 'after:kill', ...(step === 'commit' ? ['after:kill'] : [])],
  }))
    test(`a template is being made, ${step}@${fault}: nothing is left, and the instance runs`, async () => {
      await withoutTemplates(`template.make/${step}@${fault}`)
      const seen = (await server.log()).length
      const { id } = await server.client.instances.create({ ...body, name: 'maker' })
      if (fault.endsWith('kill')) await server.died()
      else await until('it has failed', async () => (await server.log()).slice(seen).includes('a template could not be made'))
      await server.restart({ TEMPLATES: 'false' })
      assert.equal((await server.client.instances.wait(id, { state: 'Running', timeout: '30s' })).state, 'Running')
      await assertTidy()
      await server.client.instances.delete(id)
    })

/** A server with those faults that has a template. */
async function withTemplate(faults: string): Promise<void> {
  await withoutTemplates('')
  const maker = await createRunning('maker')
  await until('a template is there', async () => (await readdir(layout.templates)).length === 1)
  await server.client.instances.delete(maker)
  await server.restart({ TEMPLATES: 'true', HYPEMAN_FAULTS: faults, ...limits })
}

async function assertOwnIdentity(id: string, name: string): Promise<void> {
  const { memory } = await contentOf(server, id)
  assert.deepEqual([memory.hostname, memory.instance_id], [name, id])
  assert.match(memory.machine_id, /^[0-9a-f]{32}$/)
}

const harmless = ['template@before:throw', 'template@after:enospc', 'load@before:throw', 'load@after:throw', 'resume@after:eio']
for (const fault of scaled({ part: harmless.filter((_, index) => index % 3 === 1), whole: harmless }))
  test(`an instance begins with a template, create/${fault}: it is booted instead`, async () => {
    await withTemplate(`instance.create/${fault}`)
    const id = await createRunning('new')
    await assertOwnIdentity(id, 'new')
    assert.match(await server.log(), /the machine is booted|and was booted/)
    await server.client.instances.delete(id)
    await server.restart({ TEMPLATES: 'false' })
    await assertTidy()
  })

const deadly = [
  ...['create/template@before', 'create/commit@before', 'create/commit@after', 'create/load@after', 'create/resume@after'],
  ...['ready/agent@after', 'ready/configure@before', 'ready/configure@after', 'ready/running@after'],
]
for (const at of scaled({ part: deadly.filter((_, index) => index % 4 === 2), whole: deadly }))
  test(`an instance begins with a template, killed at ${at}: it is there or not, and can be used`, async () => {
    await withTemplate(`instance.${at}:kill`)
    await server.client.instances.create({ ...body, name: 'new' }).catch(() => undefined) // killed before it answered
    await server.died()
    await server.restart({ TEMPLATES: 'false', ...limits })
    const found = (await server.client.instances.list()).find(({ name }) => name === 'new')
    if (found !== undefined) {
      const { state } = found
      if (state === 'Standby') await server.client.instances.restore(found.id)
      if (state === 'Stopped') await server.client.instances.start(found.id, {})
      assert.equal((await server.client.instances.wait(found.id, { state: 'Running', timeout: '30s' })).state, 'Running')
      await assertOwnIdentity(found.id, 'new')
      assert.ok(!(await readdir(layout.instance(found.id))).includes('memory.json'), 'the memory of the template is used up')
    } else assert.ok(/before/.test(at), 'it was committed')
    await assertTidy()
    if (found !== undefined) await server.client.instances.delete(found.id)
  })

test('a guest that does not get ready with a template is stopped with the reason, and the next one is booted', async () => {
  await withTemplate('instance.ready/configure@before:throw')
  const { id } = await server.client.instances.create({ ...body, name: 'new' })
  assert.equal((await server.client.instances.wait(id, { state: 'Stopped', timeout: '30s' })).state, 'Stopped')
  assert.match((await server.client.instances.get(id)).exit_message ?? '', /fault injected/)
  assert.deepEqual(await readdir(layout.templates), [])
  await server.restart({ TEMPLATES: 'false' })
  await server.client.instances.start(id, {})
  assert.equal((await server.client.instances.wait(id, { state: 'Running', timeout: '30s' })).state, 'Running')
  await server.client.instances.delete(id)
})
