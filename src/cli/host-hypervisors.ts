// What the command line does with the hypervisors of its own host, without a server. What does it is handed in by main.ts.

import type { Probe } from '../platform/probe.ts'

/** A version of a hypervisor's program that is known of. */
export interface HypervisorProgram {
  readonly hypervisor: string
  readonly version: string
  /** Absolute path of one that is installed; null: on PATH, or where a setting says. */
  readonly path: string | null
  /** New machines start on it. */
  readonly usual: boolean
}

interface ProgramVersion {
  readonly dataDir: string
  readonly hypervisor: string
  readonly version: string
}

export interface HostHypervisors {
  /** Names of the hypervisors whose programs can be installed. */
  readonly installable: readonly string[]
  /** One fact for each hypervisor; takes a moment where KVM has to be tried. */
  probe(dataDir: string): Promise<readonly Probe[]>
  list(dataDir: string): Promise<readonly HypervisorProgram[]>
  /** Returns what is installed when all is done; a failure or an abort leaves nothing. */
  install(
    what: ProgramVersion & { readonly from?: string | undefined; readonly sha256?: string | undefined },
    fetching: { readonly signal: AbortSignal; readonly tell: (bytes: number, totalBytes: number | undefined) => void },
  ): Promise<{ readonly path: string; readonly version: string }>
  remove(what: ProgramVersion & { readonly force: boolean }): Promise<void>
}

/** Loads it when a command asks for it. */
export type LoadHostHypervisors = () => Promise<HostHypervisors>
