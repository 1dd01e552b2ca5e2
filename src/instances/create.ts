// Flow: a new instance from an image. Its directory is staged and committed whole, then it is booted.

import { mkdir } from 'node:fs/promises'
import path from 'node:path'
import { HypemanError, isHypemanError } from '../api/errors.ts'
import { instanceFiles } from '../files/layout.ts'
import { createStaged, stageRecord } from '../files/stage.ts'
import type { Hypervisor, HypervisorName } from '../hypervisors/driver.ts'
import type { ReadyImage } from '../images/types.ts'
import { step } from '../platform/flow.ts'
import { newId, newMachineId } from '../platform/ids.ts'
import { checkSizes, reserveFor } from './capacity.ts'
import { flowOn, holdInstance, type InstanceContext } from './context.ts'
import { InstanceEntry } from './entry.ts'
import { demandAvailable } from './fit.ts'
import { demandDiskLimit, driverOf } from './machine.ts'
import { newNetwork, type WantedNetwork } from './network.ts'
import { layerSizesOf, withLayers, type WantedVolume } from './overlays.ts'
import { firstPhase } from './phases.ts'
import type { InstanceRecord } from './record.ts'
import { removeCommitted } from './remove.ts'
import { noRestarts } from './restart-policy.ts'
import { diskShareOf } from './shares.ts'
import { bootInstance } from './start.ts'
import type { TemplateKind, TemplateRecord } from './template-record.ts'
import { beginFromTemplate, takeTemplate, wantTemplate } from './template-use.ts'
import { checkMounts, checkRoom, claimVolumes } from './volumes.ts'

/** How long a create waits for an image that has to be pulled first, in milliseconds. */
const IMAGE_WAIT_MS = 5_000

/** A checked request; defaults are filled in. Sizes in bytes. */
export interface CreateInstance {
  readonly name: string
  readonly image: string
  readonly hypervisor: HypervisorName | undefined
  readonly vcpus: number
  readonly memoryBytes: number
  readonly hotplugBytes: number
  readonly overlayBytes: number
  /** Undefined: its share, where there is one. */
  readonly diskBytesPerSecond: number | null | undefined
  readonly env: Readonly<Record<string, string>>
  readonly secrets: InstanceRecord['secrets']
  /** Who asks. */
  readonly owner: string
  readonly tags: Readonly<Record<string, string>>
  readonly entrypoint: readonly string[] | undefined
  readonly cmd: readonly string[] | undefined
  readonly volumes: readonly WantedVolume[]
  readonly network: WantedNetwork | undefined
  readonly skipGuestAgent: boolean
  readonly expiresAt: string | null
  readonly restartPolicy: InstanceRecord['restartPolicy']
  readonly healthCheck: InstanceRecord['healthCheck']
  readonly autoStandby: InstanceRecord['autoStandby']
  readonly snapshotPolicy: InstanceRecord['snapshotPolicy']
}

/** Returns when the VMM runs; the instance is then `Initializing`. */
export async function createInstance(context: InstanceContext, request: CreateInstance): Promise<InstanceEntry> {
  const id = newId()
  const hypervisor = request.hypervisor ?? context.settings.defaultHypervisor
  checkSizes(context, request)
  const driver = driverOf(context, { hypervisor })
  checkRoom(driver, request.volumes)
  const { diskBytesPerSecond = diskShareOf(context, driver, request.vcpus) } = request
  demandDiskLimit(driver, { diskBytesPerSecond })
  await demandAvailable(driver)
  const network =
    request.network === undefined
      ? null
      : await newNetwork(context, driver, request.network, {
          vcpus: request.vcpus,
          hostCheck: request.skipGuestAgent ? request.healthCheck : null,
        })
  using _name = context.store.reserveName(request.name, id)
  using _share = reserveFor(context, { ...request, id }, true)
  using _lock = await holdInstance(context, { id, record: request })
  const image = await findImage(context, request.image)
  using _image = context.images.hold(image.digest)
  checkMounts(request.volumes)
  using _volumes = await claimVolumes(context, request.volumes)

  using flow = flowOn(context, id, 'instance.create')
  await using undo = new AsyncDisposableStack()
  const staged = await step(flow, 'stage', async () => {
    const made = undo.use(await createStaged(context.layout, `instance-${id}`))
    await mkdir(path.join(made.path, instanceFiles.logs))
    return made
  })
  const kind = await kindOf(context, request, driver, image)
  const template = kind === undefined ? undefined : await takeTemplate(context, kind, staged.path, flow)
  const volumes = template === undefined ? await step(flow, 'disk', () => makeDisk(driver, staged.path, request)) : []
  const record = { ...newRecord(context, request, id, hypervisor, image, template), diskBytesPerSecond, volumes, network }
  await stageRecord(path.join(staged.path, instanceFiles.record), record)
  const entry = new InstanceEntry(record, template !== undefined)
  undo.defer(() => removeCommitted(context, entry))
  await step(flow, 'commit', () => staged.commit(context.layout.instance(id)))
  context.store.add(entry)
  if (template !== undefined) await beginFromTemplate(context, entry, flow, template.kind)
  else await bootInstance(context, entry, flow, 'background')
  undo.move()
  if (template === undefined && kind !== undefined) wantTemplate(context, entry, kind)
  return entry
}

/** Makes the system disk, and in it what the volumes need. Returns them as they are then. */
async function makeDisk(
  driver: Hypervisor,
  directory: string,
  { overlayBytes, volumes }: CreateInstance,
): Promise<InstanceRecord['volumes']> {
  await driver.createDisk(directory, overlayBytes)
  const sizes = layerSizesOf(volumes)
  return withLayers(volumes, sizes.length === 0 ? [] : (await driver.addDiskParts(directory, sizes)).parts)
}

/** Of which kind a template would have to be; undefined where there can be none: volumes are devices of one machine's own. */
async function kindOf(
  { templates, kernel }: InstanceContext,
  request: CreateInstance,
  driver: Hypervisor,
  image: ReadyImage,
): Promise<TemplateKind | undefined> {
  if (templates === undefined || driver.memory === undefined || request.volumes.length > 0) return undefined
  return {
    hypervisor: driver.name,
    imageDigest: image.digest,
    kernelId: kernel.id,
    vcpus: request.vcpus,
    memoryBytes: request.memoryBytes,
    // Where nothing can be added, all that would be added to is alike.
    hotplugBytes: driver.resize?.machine === undefined ? 0 : request.hotplugBytes,
    overlayBytes: request.overlayBytes,
    hasNetwork: request.network !== undefined,
    stamp: await driver.stamp(),
  }
}

/** The image, pulled first if it is not here; a pull that takes longer goes on in the background. */
async function findImage(context: InstanceContext, name: string): Promise<ReadyImage> {
  try {
    return context.images.ready(name)
  } catch (error) {
    if (!isHypemanError(error, 'not_found')) throw error
  }
  const pulled = await context.images.pull({ name })
  const deadline = AbortSignal.timeout(IMAGE_WAIT_MS)
  try {
    return await context.images.waitReady(pulled.name, deadline)
  } catch (error) {
    if (!deadline.aborted) throw error
    throw new HypemanError('image_not_ready', `the image ${pulled.name} is being pulled; try again when GET /images says ready`)
  }
}

function newRecord(
  context: InstanceContext,
  request: CreateInstance,
  id: string,
  hypervisor: HypervisorName,
  image: ReadyImage,
  template: TemplateRecord | undefined,
): InstanceRecord {
  return {
    version: 6,
    id,
    name: request.name,
    createdAt: new Date().toISOString(),
    image: { name: image.name, digest: image.digest, platform: image.platform },
    hypervisor,
    kernelId: context.kernel.id,
    vcpus: request.vcpus,
    memoryBytes: request.memoryBytes,
    hotplugBytes: request.hotplugBytes,
    overlayBytes: request.overlayBytes,
    diskBytesPerSecond: null,
    entrypoint: request.entrypoint ?? null,
    cmd: request.cmd ?? null,
    env: request.env,
    secrets: request.secrets,
    owner: request.owner,
    tags: request.tags,
    skipGuestAgent: request.skipGuestAgent,
    volumes: [],
    network: null,
    machineId: newMachineId(),
    generation: 0,
    identityDue: null,
    environmentDue: false,
    unsafeFork: null,
    expiresAt: request.expiresAt,
    forkedFrom: null,
    stamp: template?.kind.stamp ?? null,
    process: null,
    startedAt: template === undefined ? null : new Date().toISOString(),
    stoppedAt: null,
    programStartedAt: null,
    agentReadyAt: null,
    runningSince: null,
    restartPolicy: request.restartPolicy,
    restarts: noRestarts,
    healthCheck: request.healthCheck,
    autoStandby: request.autoStandby,
    balloon: null,
    snapshotPolicy: request.snapshotPolicy,
    phases: firstPhase('created'),
    exit: null,
    savedMemory: null,
    standbyCompression: null,
    restoring: null,
  }
}
