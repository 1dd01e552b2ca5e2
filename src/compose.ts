// The composition root: from settings to a running server and back.

import { readFile, realpath } from 'node:fs/promises'
import path from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { pino, type Logger } from 'pino'
import { z } from 'zod'
import { connectAgent } from './agent/index.ts'
import { HypemanError, isHypemanError } from './api/errors.ts'
import { Digests } from './files/digests.ts'
import { makeHostDrivers, type MakeDrivers } from './drivers.ts'
import { openKeyRing } from './files/key-ring.ts'
import { dataLayout, type DataLayout } from './files/layout.ts'
import { makeDataDirectories } from './files/stage.ts'
import type { Hypervisor, HypervisorName } from './hypervisors/driver.ts'
import { createImageService } from './images/index.ts'
import {
  attachmentsOf,
  createInstanceService,
  describeCapabilities,
  EventLog,
  heldByInstances,
  hostPlatform,
  InstanceStore,
  reclaimMemory,
  recoverInstances,
  recoverNetworks,
  settingsOf,
  Spares,
  tidyStandby,
  type InstanceContext,
  Templates,
} from './instances/index.ts'
import { startAutoStandby } from './jobs/auto-standby.ts'
import { startExpiry } from './jobs/expire.ts'
import { startHealthChecks } from './jobs/health-checks.ts'
import { startReclaimEnds } from './jobs/reclaim.ts'
import { startRestarts } from './jobs/restarts.ts'
import { startStandbyCompression } from './jobs/standby-compression.ts'
import { ScheduleWorker } from './jobs/schedules.ts'
import { importKernel } from './kernels/index.ts'
import { createHostNetwork, hostConnections } from './networks/index.ts'
import { Capacity } from './platform/capacity.ts'
import { listenAddress, loadConfig, type ServeFlags, type ServerConfig } from './platform/config.ts'
import { lockDirectory } from './platform/directory-lock.ts'
import { parseFaults } from './platform/faults.ts'
import { messageOf, type FaultPlan } from './platform/flow.ts'
import { refuseUnsuitable } from './platform/host-storage.ts'
import { KeyedLock } from './platform/keyed-lock.ts'
import { readOrMakeSecret, secretsKeys, secretsOf, warnOfSecret } from './platform/secret.ts'
import { Slots } from './platform/slots.ts'
import { createPushService } from './pushes/index.ts'
import { createRegistry } from './registry/index.ts'
import { createResourceService, suppliesOf } from './resources/index.ts'
import { createScheduleService, ScheduleStore, type ScheduleContext } from './schedules/index.ts'
import { createAuthenticator } from './server/auth.ts'
import { createHttpServer } from './server/http.ts'
import { httpLimits } from './server/limits.ts'
import {
  createSnapshotService,
  isImageUsed,
  openCompressor,
  SealKeeper,
  SnapshotStore,
  readersOf,
  type SnapshotContext,
} from './snapshots/index.ts'
import { loadInstances, tidyDataDirectory } from './start-up.ts'
import { openTelemetry } from './telemetry/open.ts'
import { createVolumeService } from './volumes/index.ts'

/** Runs a server until the signal aborts; its VMs go on. Throws what keeps it from starting. Returns the exit code. */
export async function serve(
  flags: ServeFlags,
  signal: AbortSignal,
  makeDrivers: MakeDrivers = makeHostDrivers,
  faultPlan?: FaultPlan,
): Promise<number> {
  const config = await loadConfig(flags)
  const log = pino({ level: config.log_level, base: null })
  await makeDataDirectories(dataLayout(config.data_dir))
  // The kernel knows processes' directories by their real paths.
  const layout = dataLayout(await realpath(config.data_dir))
  await using undo = new AsyncDisposableStack()
  // Much of what is waited for (sockets of VMMs, the ends of adopted processes) keeps no process alive by itself.
  const awake = setInterval(() => undefined, 60_000)
  undo.defer(() => clearInterval(awake))
  undo.use(lockDirectory(layout.lock))
  await refuseUnsuitable(layout.staging).catch((error: unknown) => {
    // Whoever starts on a full disk wants to delete something.
    if (!isHypemanError(error, 'storage_full')) throw error
    log.warn({ dataDir: layout.root }, 'no space is left in the data directory: delete snapshots, instances or images')
  })
  const secret = config.jwt_secret ?? (await readOrMakeSecret(layout.secret, 'JWT_SECRET'))
  const stopping = new AbortController()
  const version = await ownVersion()
  const faults = faultPlan ?? (config.hypeman_faults === undefined ? undefined : parseFaults(config.hypeman_faults))
  const telemetry = undo.use(await openTelemetry({ config, layout, log, version }))
  const { services, registry, inventory, afterwards } = await openServices(
    { config, version, layout, log, makeDrivers, faults, stopping: stopping.signal },
    undo,
  )
  telemetry.describe(inventory)

  const http = await createHttpServer({
    services,
    registry,
    authenticator: createAuthenticator(secretsOf(config, secret), config.auth.leeway),
    log,
    version,
    stopping: stopping.signal,
    listeners: telemetry.listeners,
    tracer: telemetry.tracer,
    metrics: telemetry.metrics,
    requestsPerMinute: config.rate_limit.requests_per_minute,
    limits: httpLimits(config),
  })
  undo.defer(() => http.close())
  undo.defer(() => stopping.abort(new HypemanError('canceled', 'the server is stopping; try again when it is back')))
  const url = await http.listen({ port: config.port, host: listenAddress(config) }).catch((cause: unknown) => {
    throw new HypemanError(
      'port_in_use',
      `can't listen on ${listenAddress(config)}:${config.port}; stop what listens there or choose another --port`,
      { cause },
    )
  })
  warnOfSecret(config, layout.secret, log)
  log.info({ url, pid: process.pid, dataDir: layout.root }, 'listening')
  afterwards()
  await aborted(signal)
  log.info('stopping; instances go on')
  await undo.disposeAsync()
  log.info('stopped')
  return 0
}

/** What everything else stands on. */
interface Foundation {
  readonly config: ServerConfig
  readonly version: string
  readonly layout: DataLayout
  readonly log: Logger
  readonly makeDrivers: MakeDrivers
  readonly faults: FaultPlan | undefined
  readonly stopping: AbortSignal
}

/** Everything behind the routes, brought to the truth on disk and in the process table. */
async function openServices({ config, version, layout, log, makeDrivers, faults, stopping }: Foundation, undo: AsyncDisposableStack) {
  await tidyDataDirectory(layout, log)
  const snapshots = new SnapshotStore(layout, log)
  // Whether KVM works is another process's to find out: there is time to read thousands of records meanwhile.
  const [kernel, hypervisors] = await Promise.all([
    importKernel(layout, config.assets_dir),
    makeDrivers(layout, log, config),
    snapshots.load(),
  ])
  log.info({ kernel: kernel.id, hypervisors: hypervisors.map(({ name }) => name) }, 'kernel and hypervisors')
  const drivers = new Map<HypervisorName, Hypervisor>(hypervisors.map((driver) => [driver.name, driver]))

  const store = new InstanceStore(layout, log)
  const images = await createImageService({
    layout,
    log,
    platform: hostPlatform(),
    // What can't be read may name any image.
    inUse: (digest) => store.unreadable().length > 0 || snapshots.unreadable.size > 0 || isImageUsed(store, snapshots, digest),
    baseArchive: path.join(config.assets_dir, 'base.oci.tar'),
    faults,
  })
  undo.defer(() => images.close())
  const capacity = new Capacity(() => suppliesOf(layout.root, config))
  capacity.count(() => heldByInstances(store))
  capacity.count(() => images.held())
  const volumes = await createVolumeService({
    layout,
    log,
    attachmentsOf: (volumeId) => attachmentsOf(store, volumeId),
    snapshotsUsing: (volumeId) => readersOf(store, snapshots, volumeId),
    capacity,
    faults,
  })
  capacity.count(() => volumes.held())
  const templates = config.templates ? new Templates(layout, log) : undefined
  const spares = new Spares({ log, most: config.snapshots.spares, unusedMs: config.snapshots.keep_spares })
  const context: InstanceContext = {
    layout,
    log,
    settings: settingsOf(config),
    drivers,
    images,
    volumes,
    capacity,
    connectAgent,
    hostConnections,
    hostNetwork: undo.use(
      createHostNetwork(
        layout.root,
        { subnet: config.network.subnet_cidr, dnsServer: config.network.dns_server, egressPort: config.network.egress_port },
        log,
      ),
    ),
    kernel,
    store,
    locks: new KeyedLock(),
    digests: undo.use(new Digests()),
    sealer: await openKeyRing(layout.keyRing, await secretsKeys(config, layout.secretsKey), log),
    compressions: new Slots(config.snapshots.compressions_at_once),
    templates,
    spares,
    events: new EventLog(layout, log),
    faults,
    stopping,
  }
  await loadInstances(context)
  undo.defer(async () => {
    for (const entry of store.entries()) {
      await context.events.written(entry.id)
      entry.machine?.release()
    }
  })
  await recoverNetworks(context)
  await recoverInstances(context)
  undo.defer(() => spares.close())
  undo.defer(() => templates?.idle())
  for (const entry of store.entries()) await tidyStandby(context, entry)
  // Those of a QEMU, kernel or image that is not here any more are of no use.
  await templates?.load(async ({ kind }) => {
    const stamp = await drivers.get(kind.hypervisor)?.stamp()
    return isDeepStrictEqual(stamp, kind.stamp) && kind.kernelId === kernel.id && images.byDigest(kind.imageDigest) !== undefined
  })
  const keeper = undo.use(new SealKeeper(context, snapshots))
  const snapshotHost = { instances: context, store: snapshots, locks: new KeyedLock(), keeper }
  const compressor = undo.use(await openCompressor(snapshotHost, config.snapshots))
  const snapshotContext: SnapshotContext = { ...snapshotHost, compressor }
  const tidyImages = (): void => {
    images
      .collectUnused()
      .then(() => templates?.dropStale(({ kind }) => images.byDigest(kind.imageDigest) === undefined))
      .catch((error: unknown) => log.warn({ error: messageOf(error) }, 'unused images could not be removed'))
  }
  // Before anything is removed: pushes that go on hold their images.
  const atOnce = config.limits.max_concurrent_pushes
  const pushes = await createPushService({ layout, log, images, atOnce, lockWaitMs: config.timeouts.lock, faults, ended: tidyImages })
  undo.defer(() => pushes.close())
  const schedules = new ScheduleStore(layout, { log, faults })
  await schedules.load()
  const scheduleContext: ScheduleContext = {
    snapshots: snapshotContext,
    store: schedules,
    locks: new KeyedLock(),
    shortestIntervalMs: config.snapshots.shortest_interval,
  }
  const scheduleWorker = undo.use(new ScheduleWorker(scheduleContext, tidyImages))
  const lookAtSchedules = (): void => scheduleWorker.look()
  /** An instance or snapshot is gone: with it may go what it alone needed. */
  const removed = (): void => {
    tidyImages()
    lookAtSchedules()
  }
  undo.use(startExpiry(context, log, removed))
  for (const start of [startRestarts, startHealthChecks, startAutoStandby, startStandbyCompression, startReclaimEnds])
    undo.use(start(context, log))
  const registry = await createRegistry({ layout, log, images, platform: hostPlatform(), faults })
  undo.defer(() => registry.close())
  capacity.count(() => [registry.held()])
  // Rules were brought up to date meanwhile.
  await context.hostNetwork.settled()
  // What a conversion that was cut off has made, or a removal that failed has left.
  await images.collectUnused().catch((error: unknown) => log.warn({ error: messageOf(error) }, 'unused images could not be removed'))
  return {
    /** What nobody has to wait for. */
    afterwards: () => {
      void keeper.resume().then(() => compressor.start())
      lookAtSchedules()
    },
    /** What metrics tell of. */
    inventory: { instances: store, snapshots, capacity, spares },
    registry,
    services: {
      instances: createInstanceService(context, removed),
      snapshots: createSnapshotService(snapshotContext, removed),
      schedules: createScheduleService(scheduleContext, lookAtSchedules),
      images,
      pushes,
      volumes,
      resources: createResourceService({
        capacity,
        settings: config,
        instanceOf: (id) => store.byId(id)?.record,
        reclaim: (body, hostMemoryBytes) => reclaimMemory(context, body, hostMemoryBytes),
      }),
      capabilities: () => describeCapabilities(context, version),
      unreadable: () => [
        ...[store, images, pushes, volumes, registry].flatMap((one) => one.unreadable()),
        ...[snapshots.unreadable, schedules.unreadable()].flatMap((one) => [...one.values()]),
      ],
    },
  }
}

async function ownVersion(): Promise<string> {
  const manifest = z
    .object({ version: z.string() })
    .parse(JSON.parse(await readFile(path.join(import.meta.dirname, '..', 'package.json'), 'utf8')))
  return manifest.version
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve()
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }))
}
