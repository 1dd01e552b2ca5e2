// Every name on disk under the data directory, and what each file of an instance or snapshot is. The only place that builds paths.
// Documented in docs/on-disk-layout.md.

import path from 'node:path'

/** Paths below one data directory. All absolute. */
export interface DataLayout {
  readonly root: string
  readonly lock: string
  readonly secret: string
  /** Opens the key ring. */
  readonly secretsKey: string
  /** Keys of the secrets in records. */
  readonly keyRing: string
  /** Where new directories are made before they are renamed into place; swept at start. */
  readonly staging: string
  /** Where directories are renamed to before they are removed; swept at start. */
  readonly trash: string
  readonly instances: string
  readonly snapshots: string
  readonly images: string
  /** One record for each image reference. */
  readonly imageReferences: string
  /** One directory for each image digest. */
  readonly imageRootfs: string
  /** What was pushed into the server's own registry. */
  readonly registry: string
  readonly volumes: string
  readonly kernels: string
  readonly templates: string
  /** Programs of hypervisors: a directory for each hypervisor, with one for each version. */
  readonly hypervisors: string
  /** One record for each instance that is snapshotted by itself. */
  readonly schedules: string
  /** One record for each image that was sent, or is to be sent, to another registry. */
  readonly pushes: string
  readonly cache: string
  /** What the server itself writes down; logs of instances are with them. */
  readonly logs: string
  /** Who changed what; older ones with a number behind the name. */
  readonly auditLog: string
  instance(id: string): string
  snapshot(id: string): string
  /** By the hexadecimal digits of the manifest digest. */
  image(digestHex: string): string
  volume(id: string): string
  kernel(id: string): string
  /** By the hexadecimal digits of what it was made for. */
  template(key: string): string
  /** The versions of a hypervisor's program that are installed, by the hypervisor's name. */
  hypervisor(name: string): string
  /** The record of an instance's snapshot schedule, which may outlive the instance. */
  schedule(instanceId: string): string
  /** The record of a push. */
  push(id: string): string
}

export function dataLayout(root: string): DataLayout {
  const at = (...parts: string[]): string => path.join(root, ...parts)
  return {
    root,
    lock: at('lock'),
    secret: at('jwt-secret'),
    secretsKey: at('secrets-key'),
    keyRing: at('key-ring.json'),
    staging: at('staging'),
    trash: at('trash'),
    instances: at('instances'),
    snapshots: at('snapshots'),
    images: at('images'),
    imageReferences: at('images', 'references'),
    imageRootfs: at('images', 'rootfs'),
    registry: at('images', 'registry'),
    volumes: at('volumes'),
    kernels: at('kernels'),
    templates: at('templates'),
    hypervisors: at('hypervisors'),
    schedules: at('schedules'),
    pushes: at('pushes'),
    cache: at('cache'),
    logs: at('logs'),
    auditLog: at('logs', 'audit.jsonl'),
    instance: (id) => at('instances', id),
    snapshot: (id) => at('snapshots', id),
    image: (digestHex) => at('images', 'rootfs', digestHex),
    volume: (id) => at('volumes', id),
    kernel: (id) => at('kernels', id),
    template: (key) => at('templates', key),
    hypervisor: (name) => at('hypervisors', name),
    schedule: (instanceId) => at('schedules', `${instanceId}.json`),
    push: (id) => at('pushes', `${id}.json`),
  }
}

/** Directory, in that of a snapshot or instance, of memory files that lie there compressed. */
export const compressedDirectory = 'compressed'

/** Files of an instance directory that the product itself keeps; a driver adds its own. */
export const instanceFiles = {
  record: 'record.json',
  /** Memory files of its standby, compressed. */
  compressed: compressedDirectory,
  /** What was done with the instance, one JSON object a line. */
  events: 'logs/events.jsonl',
  logs: 'logs',
  /** There while the programs of a running guest stand still, for the next server. */
  frozen: 'frozen.lock',
  /** The workload's output. */
  appLog: 'logs/app.log',
  /** The kernel's console. */
  consoleLog: 'logs/console.log',
  /** The VMM's own output. */
  vmmLog: 'logs/vmm.log',
} as const

/** Files of a snapshot directory. */
export const snapshotFiles = {
  record: 'snapshot.json',
  /** What every file of it was when it was taken (seals.ts). */
  seals: 'seals.json',
  payload: 'guest',
  /** How its memory is to be compressed, and what was; not there if it is not to be. */
  compression: 'compression.json',
  /** Memory files of the payload, compressed. */
  compressed: compressedDirectory,
} as const

/** Files of a template's directory. */
export const templateFiles = {
  record: 'template.json',
  payload: 'guest',
  /** What the kernel printed while it booted. */
  consoleLog: 'console.log',
} as const

/** Files of an image's directory. */
export const imageFiles = {
  record: 'image.json',
  /** The root file system, read-only. */
  rootfs: 'rootfs.erofs',
  /** The image as it came: manifest, config and layers, under their digests. */
  blobs: 'blobs',
} as const

/** Files of a volume's directory. */
export const volumeFiles = {
  record: 'volume.json',
  /** A raw ext4 image, sparse. */
  disk: 'disk.raw',
} as const

/**
 * True for files that belong to one run of a machine and are nobody else's: logs, pids, locks, sockets, files in the making. A copy of a
 * directory leaves them out, by this rule alone: whoever adds such a file names it so.
 */
export function isOfRun(name: string): boolean {
  return name === instanceFiles.logs || name === 'lock' || /\.(?:log|pid|lock|sock|tmp)$/.test(name)
}
