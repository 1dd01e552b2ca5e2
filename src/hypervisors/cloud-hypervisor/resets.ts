// Tells when a guest resets its machine (a panic, a reboot). The VMM boots it again in the same process, and no setting keeps it from that; but its event monitor says so, in a file.

import { closeSync, openSync, readSync, watch, type FSWatcher } from 'node:fs'
import { isMissing } from '../../files/tree.ts'

/** As the VMM writes the event's name: `vm.rebooting`. */
const RESET = '"rebooting"'
const PIECE_BYTES = 65_536

/**
 * Calls `onReset` once, as soon as the file of a process tells of a reset, also if it did so before. Disposing ends the watch. A file that was deleted tells nothing, and
 * nobody else does: a guest that resets is booted again then.
 */
export function watchResets(file: string, onReset: () => void): Disposable {
  let [position, seen, found] = [0, '', false]
  const look = (): void => {
    if (found) return
    const { text, bytes } = readFrom(file, position)
    position += bytes
    seen += text
    if (!seen.includes(RESET)) {
      seen = seen.slice(-RESET.length)
      return
    }
    found = true
    onReset()
  }
  // Watched before it is read, so that nothing is missed in between.
  let watcher: FSWatcher
  try {
    watcher = watch(file, { persistent: false }, look)
  } catch (error) {
    if (!isMissing(error)) throw error
    return { [Symbol.dispose]: () => undefined }
  }
  watcher.on('error', () => watcher.close()) // the instance's directory is being removed, or restored: with it the process has ended
  look()
  return { [Symbol.dispose]: () => watcher.close() }
}

/** What was written since; nothing if the file is gone. */
function readFrom(file: string, position: number): { readonly text: string; readonly bytes: number } {
  let fd: number
  try {
    fd = openSync(file, 'r')
  } catch (error) {
    if (isMissing(error)) return { text: '', bytes: 0 }
    throw error
  }
  try {
    let [text, bytes] = ['', 0]
    const buffer = Buffer.alloc(PIECE_BYTES)
    for (let read = PIECE_BYTES; read === PIECE_BYTES;) {
      read = readSync(fd, buffer, 0, PIECE_BYTES, position + bytes)
      text += buffer.toString('latin1', 0, read)
      bytes += read
    }
    return { text, bytes }
  } finally {
    closeSync(fd)
  }
}
