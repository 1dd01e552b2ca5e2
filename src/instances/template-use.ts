// A new instance that begins with a template: which one, and what becomes of it when the template can't be used.

import { readdir, readFile, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { HypemanError, isHypemanError } from '../api/errors.ts'
import { instanceFiles, templateFiles } from '../files/layout.ts'
import { checkSeals } from '../files/seals.ts'
import { isMissing } from '../files/tree.ts'
import { messageOf, step, type FlowContext } from '../platform/flow.ts'
import type { InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { bootMark } from './exit.ts'
import { driverOf, memoryOf } from './machine.ts'
import { bootInstance, resumeInstance } from './start.ts'
import { makeTemplate } from './template-make.ts'
import { keyOf, type TemplateKind, type TemplateRecord } from './template-record.ts'

/**
 * Fills a staged instance directory, which holds its logs' directory alone, with a template's guest. Undefined if there is none of that kind, or it can't be
 * used: then nothing of it is left, and the log says why.
 */
export async function takeTemplate(
  context: InstanceContext,
  kind: TemplateKind,
  directory: string,
  flow: FlowContext,
): Promise<TemplateRecord | undefined> {
  const { templates } = context
  const template = templates?.find(keyOf(kind))
  if (templates === undefined || template === undefined) return undefined
  try {
    await step(flow, 'template', () => materialise(context, template, directory))
    return template
  } catch (error) {
    flow.signal.throwIfAborted()
    context.log.warn({ template: keyOf(kind), error: messageOf(error) }, 'a template can not be used; the machine is booted')
    for (const name of await readdir(directory)) if (name !== instanceFiles.logs) await rm(path.join(directory, name), { recursive: true })
    if (isHypemanError(error, 'corrupt_snapshot') || isMissing(error)) await templates.drop(keyOf(kind), messageOf(error))
    return undefined
  }
}

async function materialise(context: InstanceContext, { kind, seals }: TemplateRecord, directory: string): Promise<void> {
  const [driver, home] = [driverOf(context, kind), context.layout.template(keyOf(kind))]
  const payload = path.join(home, templateFiles.payload)
  const { problems } = await checkSeals(payload, seals, (name) => driver.partOf(name) === 'state', context.digests)
  if (problems.length > 0)
    throw new HypemanError('corrupt_snapshot', `the template is damaged: ${problems.map(({ name, what }) => `${name} ${what}`).join(', ')}`)
  await driver.materialise(payload, directory, true)
  const said = await readFile(path.join(home, templateFiles.consoleLog))
  await writeFile(path.join(directory, instanceFiles.consoleLog), Buffer.concat([Buffer.from(bootMark()), said]))
  await context.templates?.touch(keyOf(kind))
}

/** Makes a committed instance go on where its template waits; a template with which that fails is dropped, and the machine boots from its disks. */
export async function beginFromTemplate(
  context: InstanceContext,
  entry: InstanceEntry,
  flow: FlowContext,
  kind: TemplateKind,
): Promise<void> {
  entry.templateKey = keyOf(kind)
  try {
    await resumeInstance(context, entry, flow, { ready: 'background' })
  } catch (error) {
    flow.signal.throwIfAborted()
    await memoryOf(context, entry.record).discardMemory(context.layout.instance(entry.id))
    entry.holdsMemory = false
    entry.templateKey = undefined
    // Throws the same if it is no fault of the template's.
    await bootInstance(context, entry, flow, 'background')
    context.log.warn({ instance: entry.id, error: messageOf(error) }, 'a machine could not begin with its template, and was booted')
    await context.templates?.drop(keyOf(kind), messageOf(error))
  }
}

/** Has a template made for the instances to come, when this one, which was booted, is ready: not in its way. */
export function wantTemplate(context: InstanceContext, entry: InstanceEntry, kind: TemplateKind): void {
  context.templates?.begin(keyOf(kind), async () => {
    await entry.readying
    if (entry.record.agentReadyAt !== null) await makeTemplate(context, kind)
  })
}
