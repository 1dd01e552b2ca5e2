// Installs a version of a hypervisor's program beside those that are there: fetched, compared with its checksum, unpacked, asked for its version, and
// renamed into place whole. What fails or is interrupted leaves nothing.

import { chmod, rename, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import type { DataLayout } from '../files/layout.ts'
import { createStaged, makeDataDirectories, makeOwnDirectory, moveToTrash } from '../files/stage.ts'
import type { PublishedProgram, Release } from '../hypervisors/release.ts'
import { findBinaries, type Binary } from '../platform/binaries.ts'
import { newId } from '../platform/ids.ts'
import { fetchFile, fetchSum, isUrl, type Fetching } from './fetch.ts'
import { unpackMember } from './unpack.ts'

export interface Installation {
  readonly version: string
  /** Another URL, or a path, of what the project publishes. */
  readonly from?: string | undefined
  /** What it must have, in hexadecimal, instead of what is published beside it. */
  readonly sha256?: string | undefined
}

/** Returns what is installed then. The processor is this host's. */
export async function installProgram(
  layout: DataLayout,
  release: Release,
  { version, from, sha256 }: Installation,
  fetching: Fetching,
): Promise<Binary> {
  const { hypervisor, program } = release
  const published = publishedFor(release, version)
  await refuseInstalled(path.join(layout.hypervisor(hypervisor), version), program)
  const wanted = sha256?.toLowerCase() ?? (await publishedSum(release, published, version, from, fetching))

  await makeDataDirectories(layout)
  await makeOwnDirectory(layout.hypervisors)
  await makeOwnDirectory(layout.hypervisor(hypervisor))
  await using staged = await createStaged(layout, `hypervisor-${newId()}`)
  const [fetched, file] = [path.join(staged.path, 'fetched.tmp'), path.join(staged.path, program)]
  const source = from ?? published.url
  const sum = await fetchFile(source, fetched, fetching)
  if (sum !== wanted)
    throw new Error(`${source} has the SHA-256 ${sum}, not ${wanted}; nothing was installed: do not use that file unless you know why`)
  if (published.member === undefined) await rename(fetched, file)
  else await unpack(fetched, published.member, published, file, fetching.signal)
  await rm(fetched, { force: true })
  await chmod(file, 0o755)
  const said = await versionOf(release, file, version)
  const final = path.join(layout.hypervisor(hypervisor), said)
  await refuseInstalled(final, program)
  fetching.signal.throwIfAborted()
  // A directory without its program is no version.
  await moveToTrash(layout, final)
  await staged.commit(final)
  return { path: path.join(final, program), version: said }
}

/** The program, and what the archive holds to be put beside it. */
async function unpack(archive: string, member: string, { beside }: PublishedProgram, file: string, signal: AbortSignal): Promise<void> {
  if (!(await unpackMember(archive, member, file, signal)))
    throw new Error(`the archive holds no ${member}; it is not what the project publishes`)
  if (beside === undefined) return
  const other = path.join(path.dirname(file), beside.program)
  if (await unpackMember(archive, beside.member, other, signal)) await chmod(other, 0o755)
}

function publishedFor(release: Release, version: string): PublishedProgram {
  if (!/^\d+(\.\d+)+(-[\w.]+)?$/.test(version)) throw new Error(`'${version}' is not a version: give one such as 1.10.1`)
  const published = release.published(version, process.arch)
  if (published === undefined)
    throw new Error(`${release.hypervisor} publishes no program for ${process.arch} processors; build it from its sources`)
  return published
}

async function publishedSum(
  { hypervisor }: Release,
  { sha256Url }: PublishedProgram,
  version: string,
  from: string | undefined,
  fetching: Fetching,
): Promise<string> {
  if (from !== undefined)
    throw new Error(
      `what comes from ${isUrl(from) ? 'another address' : 'a file'} is installed with its checksum only; give --sha256 (sha256sum prints it)`,
    )
  if (sha256Url === undefined)
    throw new Error(
      `${hypervisor} publishes no checksum beside version ${version}; give the one that its page of releases shows with --sha256`,
    )
  return await fetchSum(sha256Url, fetching)
}

/** It runs here, and is what it is said to be. Its own word is what memory images are stamped with: `41.0` may call itself `41.0.0`. */
async function versionOf(release: Release, file: string, version: string): Promise<string> {
  const advice = `it is no ${release.hypervisor} for this host`
  const { version: said } = await findBinaries({ command: file, pattern: release.versionPattern, advice }).usual()
  const plain = (text: string): string => text.replace(/(\.0)+$/, '')
  if (plain(said) !== plain(version)) throw new Error(`the program says that it is version ${said}, not ${version}; nothing was installed`)
  return said
}

async function refuseInstalled(directory: string, program: string): Promise<void> {
  const there = await stat(path.join(directory, program)).catch(() => undefined)
  if (there !== undefined) throw new Error(`it is installed already (${directory}); remove it first to install it again`)
}
