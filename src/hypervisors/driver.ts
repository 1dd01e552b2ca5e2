// The contract between the product and a hypervisor. A driver turns a machine description into a process
// and a handle, and knows its own files in an instance directory. It has no names, states, records or HTTP.
// Capabilities are data or optional members: what a hypervisor can't do is absent, and the API answers 501.

import type { Duplex } from 'node:stream'
import type { HypervisorName } from '../api/schemas/common.ts'
import type { ProcessEnd, ProcessIdentity } from '../platform/process.ts'

export type { HypervisorName }

export interface PortMapping {
  readonly guestPort: number
  readonly hostPort: number
  readonly protocol: 'tcp' | 'udp'
  /** Host address to listen on, by default `127.0.0.1`. */
  readonly hostAddress: string
}

/** A disk besides the writable system disk, which the driver keeps itself. */
export interface DiskSpec {
  /** Virtio serial, at most 20 bytes: how the guest finds the disk (`rootfs`, `vol-0`, …). */
  readonly id: string
  /** Absolute path of a raw image. */
  readonly path: string
  readonly readOnly: boolean
}

/** A stretch of the system disk with an ext4 of its own, in bytes. */
export interface DiskPart {
  readonly offsetBytes: number
  readonly sizeBytes: number
}

/** What was added to a system disk. Disposing takes it back. */
export interface AddedParts extends AsyncDisposable {
  /** In the order of their sizes in the request. */
  readonly parts: readonly DiskPart[]
}

/**
 * How a machine is on a network. `user`: the VMM itself is its NAT and publishes ports, so every guest may have the same address. `tap`: a network device of the host
 * that exists before the machine starts and outlives it; addresses, routes, ports and limits are the host's.
 */
export type NetworkSpec =
  | { readonly kind: 'user'; readonly mac: string; readonly ports: readonly PortMapping[] }
  | { readonly kind: 'tap'; readonly mac: string; readonly device: string }

/** Processors and memory of a machine. */
export interface MachineSize {
  readonly vcpus: number
  readonly memoryMib: number
}

/** Everything that a VMM process is made from. Equal specs give equal devices, in equal order. */
export interface MachineSpec extends MachineSize {
  readonly instanceId: string
  /** Absolute path of the instance's directory, the working directory of the VMM. Holds the driver's own files. */
  readonly directory: string
  /** How large it may be made while it runs (`resize.machine`): a boot keeps room for that, which takes no memory. Absent: it stays as it is. */
  readonly largest?: MachineSize
  /** Absolute paths; the same bytes for every start from one memory snapshot. */
  readonly kernel: string
  readonly initrd: string
  /** Read-only image first, then volumes, in a fixed order. */
  readonly disks: readonly DiskSpec[]
  /** Of the guest's own file system on the system disk: one that is shorter is made that long when it boots. Absent: it is as it was made. */
  readonly systemBytes?: number
  /** Parts that the guest finds on the system disk, numbered from 1; without any the disk is one file system. */
  readonly systemParts?: readonly DiskPart[]
  /** What all disks together may read and write; null: no limit. No part of a memory image. Only where `features` has `disk-io-limit`. */
  readonly diskBytesPerSecond: number | null
  readonly network: NetworkSpec | null
}

export type MachineStatus = 'created' | 'running' | 'paused' | 'shutdown'

/** What a VMM process has moved for its guest since it began, in bytes. What it does not count is absent. */
export interface Traffic {
  readonly network?: { readonly receivedBytes: number; readonly sentBytes: number }
  readonly disks?: { readonly readBytes: number; readonly writtenBytes: number }
}

/** A VMM process of ours. Disposing it never kills it: VMMs outlive the server. */
export interface Machine {
  readonly process: ProcessIdentity
  /** Settles when the process is gone, whoever ended it. Never rejects. */
  readonly exited: Promise<ProcessEnd>
  status(signal?: AbortSignal): Promise<MachineStatus>
  /** Absent: the VMM does not count, or can't be asked for what it has counted. */
  traffic?(signal: AbortSignal): Promise<Traffic>
  /** Idempotent: pausing a paused machine is no error. */
  pause(): Promise<void>
  /** Idempotent. */
  resume(): Promise<void>
  /** ACPI power button or its like; returns when it was sent, not when the guest is off. */
  powerButton(): Promise<void>
  /** Ends the process and waits until it is gone (at most 30 s, then an error). Idempotent. */
  kill(): Promise<void>
  /** The directory that the process works in has another name now. Present where memory is `movable`. */
  moved?(directory: string): void
  /** Drops connections to the process without ending it; for the server's own stop. */
  release(): void
  /** Opens the byte channel to the guest agent. One at a time: opening a second closes the first. */
  openAgentChannel(signal: AbortSignal): Promise<Duplex>
}

/** Writer of a memory image: an image restores only under an equal stamp. */
export interface VersionStamp {
  readonly hypervisor: HypervisorName
  readonly version: string
  readonly machineType: string
  readonly accelerator: string
}

/** How long the guest stood still and what was written, in milliseconds and bytes. */
export interface CaptureReport {
  readonly pausedMs: number
  readonly memoryBytes: number
  /** Why the machine, which ran before, could not be made to run again: the image is whole all the same. */
  readonly notResumed?: string
  /** How it went, where that is not as good as it can be: why the machine stood still for all of its memory. */
  readonly note?: string
}

/** Called by a capture around the moment in which the machine stands still, so that the guest's programs stand still for as short as can be. */
export interface AroundPause {
  /** As the last thing before the machine is paused, and only if it runs. If it rejects, nothing was saved. */
  before(): Promise<void>
  /** As soon as the machine runs again, which may be long before the capture returns. Does not throw. Need not be called when the capture fails. */
  after(): void
}

/**
 * Memory snapshots. Every file made here is immutable once the call returns and may be shared by hard link.
 * A directory that `holdsMemory` derives the state Standby when no process runs.
 */
export interface MemorySnapshots {
  /**
   * Freezes a running or paused machine into `target`, an existing empty directory on the same filesystem: memory, device
   * state and disks of one instant. The machine runs again when this returns or throws, in the same process, if it ran before;
   * `notResumed` tells when it doesn't. `target` is not durable yet: the commit of the staged directory that it lies in makes it so.
   */
  capture(machine: Machine, spec: MachineSpec, target: string, signal: AbortSignal, around?: AroundPause): Promise<CaptureReport>
  /** `capture` calls both of `around`. Absent: it calls neither, and the guest's programs stand still for all of the call. */
  readonly tellsPause?: true
  /** Saves memory and device state into the instance's own directory; durably; the machine stays paused. The disks stay where they are. If it throws, what it wrote is gone. */
  suspend(machine: Machine, spec: MachineSpec, signal: AbortSignal): Promise<CaptureReport>
  /** Starts a process from the memory in `spec.directory`; it comes up paused. Failure leaves no process, and the directory as it was. */
  restore(spec: MachineSpec, stamp: VersionStamp, signal: AbortSignal): Promise<Machine>
  /** The directory of a restored machine may be renamed while it is paused: its process works with relative names, and is told by `Machine.moved`. */
  readonly movable?: true
  /** True if the directory holds a complete memory image. One that was damaged since counts: using it is the error, which says so. */
  holdsMemory(directory: string): Promise<boolean>
  /** Removes the memory image: what is left starts cold from its disks. Idempotent. */
  discardMemory(directory: string): Promise<void>
  /** After a restored machine runs: drops, durably, what only a standby instance needs, so that the state is no longer Standby. */
  consumeMemory(directory: string): Promise<void>
}

/** Memory that a guest gives back to the host while it runs, and takes again. What is given back is lost to the machine alone, never to a file that others share. */
export interface Balloon {
  /** Bytes that the guest has given back. */
  given(machine: Machine, signal: AbortSignal): Promise<number>
  /** Asks the guest to give back that many bytes in all; returns when it was asked, not when it has done it. */
  ask(machine: Machine, bytes: number, signal: AbortSignal): Promise<void>
}

/**
 * What makes a machine larger while it runs. Nothing is ever taken from a guest, which takes into use what it was given when its agent is told to (`AgentClient.grow`).
 * Each returns when the VMM has it.
 */
export interface Resize {
  /** Makes the system disk that long, in bytes, if it is not yet. Absent: disks grow while nothing runs (`Hypervisor.growDisk`). */
  readonly disk?: (machine: Machine, sizeBytes: number, signal: AbortSignal) => Promise<void>
  /** Absent: processors and memory are those of the machine's boot. */
  readonly machine?: {
    /** Memory is added in multiples of this, in MiB. */
    readonly memoryStepMib: number
    /** What the machine has, by the VMM's own word. */
    size(machine: Machine, signal: AbortSignal): Promise<MachineSize>
    /** `conflict` where the machine was not started with room for that. When it throws, `size` tells what the machine has been given all the same. */
    grow(machine: Machine, wanted: MachineSize, signal: AbortSignal): Promise<void>
  }
}

/**
 * What a file of a driver's is for: `state` is small and read whole when a machine starts from memory (device state, manifests), `memory` is the
 * rest of a memory image, `disk` is the system disk.
 */
export type FilePart = 'state' | 'memory' | 'disk'

export interface Hypervisor {
  readonly name: HypervisorName
  /** How it keeps system disks. Drivers with the same word take each other's payloads, without memory, as they are; between others a disk goes through `exportDisk` and `importDisk`. */
  readonly diskFormat: string
  /** Wire feature ids, in the order of GET /capabilities. */
  readonly features: readonly string[]
  /** Absent: no standby, no Standby snapshots, no memory forks. */
  readonly memory?: MemorySnapshots
  /** Absent: a running machine gives no memory back. */
  readonly balloon?: Balloon
  /** Absent: a machine that runs can't be made larger. */
  readonly resize?: Resize
  /** The networks that its machines can be on, the usual one first. */
  readonly networks: readonly NetworkSpec['kind'][]
  /** Largest number of volumes that the machine type takes. */
  readonly maxVolumes: number
  /**
   * Why this hypervisor can't run here (one sentence that says what to do), or undefined. Cheap after the first call. With a version: why memory that this version wrote can't go on here, for which
   * the program of just that version is asked where it is here, whatever new machines start on.
   */
  unavailable(version?: string): Promise<string | undefined>
  /** Whether new machines run in a jail: each as a user of its own, with its own files alone. Absent: they do not. Asked where it can run. */
  jailed?(): Promise<boolean>
  /** Absolute path of the program that new machines start on. Absent for one whose versions are not installed beside each other by us. */
  program?(): Promise<string>
  /** What a memory image written now would need: the version of the binary that new machines start on. With a version: of the binary of just that version where it is here. */
  stamp(version?: string): Promise<VersionStamp>
  /**
   * Throws if the contents of a file of the driver's lead to another place. Asked of an instance's directory when the server starts; links and the like are refused whoever made them. Absent: no
   * contents can.
   */
  refuseForeign?(directory: string): Promise<void>
  /** Makes the writable system disk, of `sizeBytes` apparent size and formatted ext4, in a staged instance directory. */
  createDisk(directory: string, sizeBytes: number): Promise<void>
  /**
   * Makes the system disk of a machine that does not run, and has no memory saved, longer by an empty ext4 for each size; durably, unless the directory is
   * a staged one, whose commit makes it so. What the guest has on the disk stays as it is.
   */
  addDiskParts(directory: string, sizes: readonly number[]): Promise<AddedParts>
  /**
   * Makes the system disk of a machine that does not run, and has no memory saved, that long, if it is shorter; durably. What lies on it is made longer by the guest, at its next boot.
   * Disposing takes it back; not once a machine was started.
   */
  growDisk(directory: string, sizeBytes: number): Promise<AsyncDisposable>
  /**
   * Gives the system disk of a directory or payload as one raw file, holes kept: what every driver can make a disk of. It may be the disk itself by another name, and is immutable. No process may
   * write to the disk meanwhile.
   */
  exportDisk(directory: string, file: string, signal: AbortSignal): Promise<void>
  /** Makes a raw file, by a rename within the filesystem, the system disk of a staged instance directory. */
  importDisk(directory: string, file: string): Promise<void>
  /** Cold boot. The process runs when this returns; the guest has not booted yet. Failure leaves no process and no socket. */
  boot(spec: MachineSpec, signal: AbortSignal): Promise<Machine>
  /** Finds a process again after a restart of the server, whatever has become of its disks; undefined if it is gone or not ours. */
  adopt(spec: Pick<MachineSpec, 'directory'>, process: ProcessIdentity): Promise<Machine | undefined>
  /**
   * Copies what a stopped or standby instance's directory holds of this driver's files (disks, and memory if `withMemory`) into `target`,
   * an existing empty directory on the same filesystem. Immutable files are linked; the source may get a fresh writable layer.
   */
  share(directory: string, target: string, withMemory: boolean): Promise<void>
  /** Copies a snapshot's payload (made by `capture` or `share`) into a staged instance directory and gives it a writable layer of its own. The payload stays untouched. */
  materialise(payload: string, directory: string, withMemory: boolean): Promise<void>
  /** Of a file in a payload or an instance directory, by its name; undefined for what never enters a payload. */
  partOf(file: string): FilePart | undefined
}
