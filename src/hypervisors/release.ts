// Where a hypervisor's project publishes its program. Facts only: what is done with them is src/programs.

import type { HypervisorName } from '../api/schemas/common.ts'

export interface PublishedProgram {
  /** Of an archive, or of the program itself. */
  readonly url: string
  /** Of a text that begins with the SHA-256 of it, in hexadecimal; undefined: none is published beside it. */
  readonly sha256Url: string | undefined
  /** Path of the program in a .tar.gz; undefined: what is published is the program. */
  readonly member: string | undefined
  /** Another program that the archive may hold, which is of use beside it. */
  readonly beside?: { readonly member: string; readonly program: string } | undefined
}

export interface Release {
  readonly hypervisor: HypervisorName
  /** Name of the program's file once it is installed, and on PATH. */
  readonly program: string
  /** Finds the version, its first group, in what `--version` prints. */
  readonly versionPattern: RegExp
  /** Undefined where nothing is published for a processor, by Node's word for it. */
  published(version: string, processor: string): PublishedProgram | undefined
}
