// What is left of a helper's unix sockets.

import path from 'node:path'
import { removeFile } from '../../files/stage.ts'
import { vzFiles } from './configuration.ts'

/** What a process that was killed left: a new one makes its own. */
export async function removeSockets(directory: string): Promise<void> {
  for (const name of [vzFiles.control, vzFiles.vsock]) await removeFile(path.join(directory, name))
}
