// Tells a story to a server on a recorded disk.

import path from 'node:path'
import { killVmms } from '../vmm.ts'
import { History } from './history.ts'
import { recordDisk, type Filesystem, type Recording } from './recorded-disk.ts'
import { Story, type Product, type Settings } from './story.ts'

/** Disposing removes the recording. */
export interface Told extends AsyncDisposable {
  readonly recording: Recording
  readonly history: History
}

/** `settings` go over the product's. */
export async function record(
  filesystem: Filesystem,
  product: Product,
  tell: (story: Story) => Promise<void>,
  settings: Settings = {},
): Promise<Told> {
  await using undo = new AsyncDisposableStack()
  const disk = undo.use(await recordDisk(filesystem))
  const dataDirectory = path.join(disk.path, 'data')
  const history = new History(() => disk.now())
  {
    await using ended = new AsyncDisposableStack()
    // Of a server that failed: the disk can't be unmounted under them.
    ended.defer(() => killVmms({ dataDirectory }))
    const { story, server } = await Story.begin(product, { ...product.settings, ...settings, DATA_DIR: dataDirectory }, history)
    ended.use(server)
    await tell(story)
  }
  const recording = await disk.finish()
  const owned = undo.move()
  return { recording, history, [Symbol.asyncDispose]: () => owned.disposeAsync() }
}
