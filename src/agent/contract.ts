// What the rest of the product may ask of a guest agent. The wire is guest/protocol.md; the client in this folder speaks it.

import type { Duplex, Readable } from 'node:stream'

export interface WorkloadStatus {
  readonly state: 'waiting' | 'running' | 'exited'
  readonly pid?: number | undefined
  readonly exitCode?: number | undefined
  readonly signal?: string | undefined
  readonly oom?: boolean | undefined
  readonly message?: string | undefined
}

export interface AgentHealth {
  readonly version: string
  readonly protocol: number
  readonly bootId: string
  readonly generation: number
  readonly uptimeMs: number
  readonly workload: WorkloadStatus
}

export interface GuestNetwork {
  readonly mac: string
  /** With prefix length, `10.0.2.15/24`. */
  readonly address: string
  readonly gateway: string
  readonly dns: readonly string[]
  readonly mtu: number
}

export interface GuestIdentity {
  readonly instanceId: string
  readonly hostname: string
  /** 32 hexadecimal digits. */
  readonly machineId: string
  readonly network: GuestNetwork | null
  /** All variables of a fork that was given others than its source: what exec and hooks run has them from then on. Absent: as in the source. */
  readonly env?: Readonly<Record<string, string>> | undefined
  /** All secret files, by name: of a boot, and of a fork that was given some. Absent or empty: those that are there stay. */
  readonly secretFiles?: Readonly<Record<string, string>> | undefined
}

export interface GuestVolume {
  /** Virtio serial of the disk. */
  readonly disk: string
  readonly mountPath: string
  readonly readOnly: boolean
  /** Number, from 1, of the part of the system disk that takes what is written over a volume that is only read; null: nothing does. */
  readonly layerPart: number | null
}

export interface GuestWorkload {
  readonly argv: readonly string[]
  readonly env: Readonly<Record<string, string>>
  readonly cwd: string
  /** Empty, `uid[:gid]` or `name[:group]`, as in an image's config. */
  readonly user: string
  readonly stopSignal: string
}

export interface BootedGuest {
  /** What the guest did; empty if it had done all of it before. */
  readonly steps: readonly IdentityStep[]
  readonly state: WorkloadStatus['state']
}

export interface IdentityStep {
  readonly name: string
  readonly ms: number
  readonly ok: boolean
  /** Why it failed. */
  readonly message?: string | undefined
  /** It went well, but not all is as it should be. */
  readonly warning?: string | undefined
  /** What there is to say besides, such as the output of hooks. */
  readonly note?: string | undefined
}

export interface ExecRequest {
  /** Empty: `/bin/sh`. */
  readonly argv: readonly string[]
  readonly tty: boolean
  readonly env: Readonly<Record<string, string>>
  readonly cwd: string
  readonly user: string
  /** 0: none. */
  readonly timeoutMs: number
  readonly rows: number
  readonly cols: number
}

export interface ExecExit {
  readonly exitCode: number
  readonly signal?: string | undefined
  readonly timedOut?: boolean | undefined
  /** Set when the program could not be started. */
  readonly error?: string | undefined
}

/** A program running in the guest. Back pressure holds both ways; destroying `output` or `input` hangs up. */
export interface ExecSession {
  /** Chunks in the order the agent sent them. */
  readonly output: AsyncIterable<{ readonly stream: 'stdout' | 'stderr'; readonly data: Buffer }>
  /** Resolves when the guest has room for more. */
  write(data: Buffer): Promise<void>
  endInput(): Promise<void>
  resize(rows: number, cols: number): Promise<void>
  signal(name: string): Promise<void>
  /** Settles after `output` has ended. Rejects if the connection broke first. */
  readonly exit: Promise<ExecExit>
  /** Ends the program (SIGHUP, then SIGKILL) and frees the stream. Idempotent. */
  hangUp(): void
}

export interface GuestPathInfo {
  readonly exists: boolean
  readonly isDir: boolean
  readonly isFile: boolean
  readonly isSymlink: boolean
  readonly linkTarget?: string | undefined
  readonly mode: number
  readonly size: number
  readonly error?: string | undefined
}

export interface FileOptions {
  readonly mode: number
  readonly uid?: number | undefined
  readonly gid?: number | undefined
}

/** What is tried in the guest, at an address of its own. */
export type ProbeRequest = { readonly host: string; readonly port: number; readonly timeoutMs: number } & (
  | { readonly type: 'tcp' }
  | { readonly type: 'http' | 'https'; readonly path: string }
)

export interface ProbeAnswer {
  /** Why there was no connection, or no answer. */
  readonly error?: string | undefined
  /** Of HTTP. */
  readonly status?: number | undefined
}

export interface GuestStats {
  readonly memoryTotalBytes: number
  readonly memoryAvailableBytes: number
  readonly load1: number
  readonly cpuSeconds: number
  readonly processes: number
  readonly diskTotalBytes: number
  readonly diskUsedBytes: number
  /** Of the guest's interface, since it booted; 0 without one. */
  readonly networkReceivedBytes: number
  readonly networkSentBytes: number
}

export interface GuestGrowth {
  readonly vcpus: number
  readonly memoryBytes: number
  /** Of its own file system, the one under its root. */
  readonly diskBytes: number
}

/** Connection to one guest's agent. Every call rejects with `guest_unreachable` when the channel is gone; the connection is then `closed`. */
export interface AgentClient {
  /** Settles when the channel has ended. Never rejects. */
  readonly closed: Promise<void>
  health(signal?: AbortSignal): Promise<AgentHealth>
  /** Gives a guest that waits all that it needs, once; asked again it only says how the program is. Entropy and time as below. */
  boot(identity: GuestIdentity, volumes: readonly GuestVolume[], workload: GuestWorkload, signal?: AbortSignal): Promise<BootedGuest>
  /**
   * Tells a guest who it is now, while its programs stand still; entropy and time are filled in here, as late as possible. `restore` leaves the identity as it is. When all
   * steps went well its programs go on; else they don't, until `thaw`.
   */
  identity(reason: 'fork' | 'restore', identity: GuestIdentity, generation: number, signal?: AbortSignal): Promise<readonly IdentityStep[]>
  /** Has all programs of the guest stand still, also in memory that is saved meanwhile. False: the agent of a guest that booted with an older version can't. */
  freeze(signal?: AbortSignal): Promise<boolean>
  /** Has them go on. */
  thaw(signal?: AbortSignal): Promise<void>
  exec(request: ExecRequest, signal?: AbortSignal): Promise<ExecSession>
  stat(path: string, followLinks: boolean, signal?: AbortSignal): Promise<GuestPathInfo>
  writeFile(path: string, options: FileOptions, content: Readable, signal?: AbortSignal): Promise<{ readonly bytesWritten: number }>
  makeDirectory(path: string, options: FileOptions, signal?: AbortSignal): Promise<void>
  /** A PAX tar stream. */
  readArchive(path: string, followLinks: boolean, signal?: AbortSignal): Promise<Readable>
  stats(signal?: AbortSignal): Promise<GuestStats>
  /** `not_supported` by the agent of a guest that booted with an older version. */
  probe(request: ProbeRequest, signal?: AbortSignal): Promise<ProbeAnswer>
  sync(signal?: AbortSignal): Promise<void>
  /**
   * Has the guest take into use what its VMM has added: until it has so many processors and so much memory, for `timeoutMs` at most, and then as much of its system disk. `conflict` with what it has
   * if it can't; `not_supported` by the agent of a guest that booted with an older version.
   */
  grow(wanted: GuestGrowth, timeoutMs: number, signal?: AbortSignal): Promise<void>
  shutdown(graceMs: number, stopSignal: string | undefined, signal?: AbortSignal): Promise<void>
  close(): void
}

/**
 * Speaks the preamble over an open channel and returns a client. Rejects with `guest_unreachable` when the guest does not answer before `signal` aborts;
 * with `ahead` it does not wait for that, and the first request goes with the preamble.
 */
export type ConnectAgent = (channel: Duplex, signal: AbortSignal, ahead?: boolean) => Promise<AgentClient>
