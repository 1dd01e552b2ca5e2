// An instance context on a temporary data directory, with a VMM that a test scripts: for the rules of flows, where no guest is needed.

import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { pino } from 'pino'
import { Digests } from '../../src/files/digests.ts'
import { dataLayout } from '../../src/files/layout.ts'
import { createStaged, makeDataDirectories, writeRecord } from '../../src/files/stage.ts'
import type { Hypervisor, Machine, MachineStatus } from '../../src/hypervisors/driver.ts'
import { firstPhase } from '../../src/instances/phases.ts'
import { EventLog, InstanceEntry, InstanceStore, noRestarts, type InstanceContext, type InstanceRecord } from '../../src/instances/index.ts'
import { KeyedLock } from '../../src/platform/keyed-lock.ts'
import { createSealer } from '../../src/platform/sealing.ts'
import { Slots } from '../../src/platform/slots.ts'
import type { VolumeSource } from '../../src/volumes/types.ts'
import { newId, newMac, newMachineId } from '../../src/platform/ids.ts'
import { roomForAll } from './capacity.ts'

export interface TestContext extends AsyncDisposable {
  readonly context: InstanceContext
  /** Commits an instance of that record and puts it into the index. */
  add(change?: Partial<InstanceRecord>): Promise<InstanceEntry>
}

/** `parts` replaces what the test needs; anything else that is touched throws. */
export async function testContext(parts: Partial<InstanceContext> = {}): Promise<TestContext> {
  const root = await mkdtemp(path.join(os.tmpdir(), 'hypeman-context-'))
  const layout = dataLayout(root)
  await makeDataDirectories(layout)
  const log = pino({ level: 'silent' })
  const untouched = (what: string): never => {
    throw new Error(`the test did not expect ${what} to be used`)
  }
  const digests = new Digests()
  const context: InstanceContext = {
    layout,
    log,
    settings: {
      defaultHypervisor: 'qemu',
      bootTimeoutMs: 1_000,
      restoreTimeoutMs: 1_000,
      stopGraceMs: 10,
      lockWaitMs: 1_000,
      networkMode: 'auto',
      compression: undefined,
      diskThroughput: undefined,
      bandwidth: undefined,
      maxVcpus: 4,
      maxMemoryBytes: 2 ** 30,
      maxOverlayBytes: 2 ** 34,
    },
    drivers: new Map(),
    images: new Proxy({} as InstanceContext['images'], { get: () => untouched('the image service') }),
    capacity: roomForAll(),
    volumes: someVolumes({ imagePath: (id) => path.join(root, 'volumes', id) }),
    connectAgent: () => untouched('the agent'),
    hostConnections: () => Promise.resolve([]),
    hostNetwork: new Proxy({} as InstanceContext['hostNetwork'], { get: () => untouched("the host's network") }),
    kernel: { id: 'kernel', kernel: '/kernel', initrd: '/initrd' },
    store: new InstanceStore(layout, log),
    locks: new KeyedLock(),
    digests,
    sealer: createSealer(['the key of tests']),
    compressions: new Slots(1),
    templates: undefined,
    spares: undefined,
    events: new EventLog(layout, log),
    faults: undefined,
    stopping: new AbortController().signal,
    ...parts,
  }
  return {
    context,
    async add(change = {}) {
      const record = { ...aRecord(), ...change }
      await using staged = await createStaged(layout, record.id)
      await writeRecord(path.join(staged.path, 'record.json'), record, null)
      await staged.commit(layout.instance(record.id))
      const entry = new InstanceEntry(record, false)
      context.store.add(entry)
      return entry
    },
    async [Symbol.asyncDispose]() {
      for (const entry of context.store.entries()) await context.events.written(entry.id)
      await digests[Symbol.asyncDispose]()
      await rm(root, { recursive: true })
    },
  }
}

export function aRecord(): InstanceRecord {
  return {
    version: 6,
    id: newId(),
    name: `vm-${newId().slice(0, 8)}`,
    createdAt: new Date().toISOString(),
    image: { name: 'docker.io/library/app:latest', digest: 'sha256:0', platform: 'linux/amd64' },
    hypervisor: 'qemu',
    kernelId: 'kernel',
    vcpus: 1,
    memoryBytes: 2 ** 28,
    hotplugBytes: 0,
    overlayBytes: 2 ** 30,
    diskBytesPerSecond: null,
    entrypoint: null,
    cmd: null,
    env: {},
    secrets: [],
    owner: null,
    tags: {},
    skipGuestAgent: false,
    volumes: [],
    network: { kind: 'user', mac: newMac(), ports: [] },
    machineId: newMachineId(),
    generation: 0,
    identityDue: null,
    environmentDue: false,
    unsafeFork: null,
    expiresAt: null,
    forkedFrom: null,
    stamp: null,
    process: null,
    startedAt: null,
    stoppedAt: null,
    programStartedAt: null,
    agentReadyAt: null,
    runningSince: null,
    restartPolicy: null,
    restarts: noRestarts,
    healthCheck: null,
    autoStandby: null,
    snapshotPolicy: null,
    balloon: null,
    phases: firstPhase('stopped'),
    exit: null,
    savedMemory: null,
    standbyCompression: null,
    restoring: null,
  }
}

/** The host's network, of which nothing is on the host; `parts` replaces what the test needs. */
export function aHostNetwork(parts: Partial<InstanceContext['hostNetwork']> = {}): InstanceContext['hostNetwork'] {
  return {
    subnet: '10.100.0.0/16',
    gateway: '10.100.0.1',
    proxyUrl: 'http://10.100.0.1:4974',
    unavailable: () => Promise.resolve(undefined),
    whyUnlimited: () => Promise.resolve(undefined),
    reserveAddress: (isTaken) => {
      const address = ['10.100.0.2', '10.100.0.3', '10.100.0.4'].find((one) => !isTaken(one))
      if (address === undefined) throw new Error('the test has more guests than addresses')
      return Promise.resolve({ address, [Symbol.dispose]: () => undefined })
    },
    isUsable: () => Promise.resolve(true),
    deviceOf: (id) => `tap-${id}`,
    describe: (mac, address) => Promise.resolve({ mac, address: `${address}/16`, gateway: '10.100.0.1', dns: ['1.1.1.1'], mtu: 1500 }),
    attach: () => Promise.resolve(),
    detach: () => Promise.resolve(),
    flows: () => Promise.resolve([]),
    recover: () => Promise.resolve(),
    settled: () => Promise.resolve(),
    [Symbol.asyncDispose]: () => Promise.resolve(),
    ...parts,
  }
}

/** Volumes that are all there and in no snapshot; `parts` replaces what the test needs. */
export function someVolumes(parts: Partial<VolumeSource> = {}): VolumeSource {
  return {
    resolve: (ref) => ref,
    imagePath: (id) => `/volumes/${id}`,
    isThere: () => true,
    snapshotsUsing: () => [],
    hold: () => ({ [Symbol.dispose]: () => undefined }),
    ...parts,
  }
}

/** A machine that only says what state it is in; `failing` makes it not answer. Whatever else is asked of it is an error. */
export function stateOnly(status: MachineStatus | 'failing'): Machine {
  const untouched = (): never => {
    throw new Error('the machine was touched')
  }
  return {
    process: { pid: 1, startTicks: '0', bootId: '' },
    exited: new Promise(() => undefined),
    status: () => (status === 'failing' ? Promise.reject(new Error('no answer')) : Promise.resolve(status)),
    pause: untouched,
    resume: untouched,
    powerButton: untouched,
    kill: untouched,
    release: untouched,
    openAgentChannel: untouched,
  }
}

/** A hypervisor that can be asked what it is; `parts` adds what else the test needs. */
export function aDriver(name: Hypervisor['name'], parts: Partial<Hypervisor> = {}): Hypervisor {
  const untouched = (): never => {
    throw new Error('the hypervisor was touched')
  }
  return {
    name,
    diskFormat: 'none',
    features: [],
    networks: ['user'],
    maxVolumes: 4,
    unavailable: () => Promise.resolve(undefined),
    partOf: untouched,
    stamp: untouched,
    createDisk: untouched,
    addDiskParts: untouched,
    growDisk: untouched,
    exportDisk: untouched,
    importDisk: untouched,
    boot: untouched,
    adopt: untouched,
    share: untouched,
    materialise: untouched,
    ...parts,
  }
}
