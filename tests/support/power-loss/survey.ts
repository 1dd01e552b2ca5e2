// Takes the power away, starts a server on what is left, and holds it against the history.

import path from 'node:path'
import { mountSmallDisk } from '../images.ts'
import { expectedAfter, survivalOf, type Loss } from './losses.ts'
import { Observer } from './observe.ts'
import { Replay } from './replay.ts'
import { Servers } from './servers.ts'
import type { Product } from './story.ts'
import type { Told } from './tell.ts'
import { digestOfTree } from './tree-digest.ts'
import { differences, type World } from './world.ts'

/** Space for two copies of a disk, which are mostly holes. */
const TEMPORARY_MEBIBYTES = 4096

/** What a survey has found. */
export interface Survey {
  /** What may not be, in words. */
  readonly failures: readonly string[]
  /** Losses that left something that no other left. */
  readonly different: number
}

/** Looks at what each loss leaves, with a few servers at a time. */
export async function survey(told: Told, losses: readonly Loss[], product: Product): Promise<Survey> {
  const findings = new Map<string, World | string>()
  const observer = new Observer(product.guests)
  const inOrder = losses.toSorted((one, other) => one.epoch - other.epoch)
  const share = Math.ceil(inOrder.length / product.serversAtOnce)
  const shares = Array.from({ length: product.serversAtOnce }, (_, index) => inOrder.slice(index * share, (index + 1) * share))
  const surveyed = await Promise.allSettled(shares.map((one) => surveyShare(told, one, product, observer, findings)))
  const failures = surveyed.flatMap((one) => {
    if (one.status === 'rejected') throw one.reason
    return one.value
  })
  return { failures, different: findings.size }
}

/** Goes through losses in the order of their epochs and returns what may not be. */
async function surveyShare(
  told: Told,
  losses: readonly Loss[],
  product: Product,
  observer: Observer,
  findings: Map<string, World | string>,
): Promise<string[]> {
  await using space = await mountSmallDisk(TEMPORARY_MEBIBYTES)
  await using servers = Servers.start(product.settings)
  await using replay = await Replay.open(told.recording, space.path)
  const failures: string[] = []
  for (const loss of losses) {
    const found = await lookAt(replay, loss, findings, (dataDirectory) => observeWith(servers, dataDirectory, observer))
    const wrong = expectedAfter(loss, told)
      .map(({ when, worlds }) => ({ when, what: typeof found === 'string' ? found : differences(found, worlds) }))
      .find(({ what }) => what !== undefined)
    if (wrong !== undefined) failures.push(`${wrong.when} (${told.recording.filesystem}, ${JSON.stringify(loss)}): ${wrong.what}`)
  }
  return failures
}

/** What is there after a loss, or what is wrong with it in words. */
async function lookAt(
  replay: Replay,
  loss: Loss,
  findings: Map<string, World | string>,
  look: (dataDirectory: string) => Promise<World | string>,
): Promise<World | string> {
  await using disk = await replay.mountAfter(loss.epoch, survivalOf(loss))
  const digest = digestOfTree(disk.path)
  const found = findings.get(digest) ?? (await look(path.join(disk.path, 'data')))
  findings.set(digest, found)
  return found
}

async function observeWith(servers: Servers, dataDirectory: string, observer: Observer): Promise<World | string> {
  try {
    await using server = await servers.serve(dataDirectory)
    const found = await observer.observe(server)
    const complaints = await server.complaints()
    return complaints.length === 0 ? found : `the server complains: ${complaints.join(', ')}`
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}
