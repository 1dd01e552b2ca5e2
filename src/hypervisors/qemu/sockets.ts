// The control socket of a QEMU process.

import { setTimeout as delay } from 'node:timers/promises'
import { HypemanError } from '../../api/errors.ts'
import type { ProcessEnd } from '../../platform/process.ts'
import { socketPath } from '../../platform/socket-path.ts'
import { isNotListening } from '../../platform/unix-http.ts'
import { qemuFiles } from './command-line.ts'
import { QmpClient } from './qmp.ts'

/** Nothing tells that a process listens: it is tried this often, in milliseconds. */
const LISTENS_POLL_MS = 2

/** Until a started QEMU listens on its control socket, in milliseconds. */
const CONNECT_LIMIT_MS = 10_000

/** Connects as soon as QEMU listens; fails when the process ends first. */
export async function connectQmp(directory: string, exited: Promise<ProcessEnd>): Promise<QmpClient> {
  const file = socketPath(directory, qemuFiles.qmp)
  const gone = new AbortController()
  exited.then(
    (exit) => gone.abort(new HypemanError('host_unavailable', `QEMU ended: ${exit.reason}`)),
    () => undefined, // `exited` never rejects
  )
  const limit = AbortSignal.timeout(CONNECT_LIMIT_MS)
  const signal = AbortSignal.any([gone.signal, limit])
  try {
    for (;;) {
      const qmp = await QmpClient.connect(file, signal).catch((error: unknown) => {
        if (isNotListening(error)) return undefined
        throw error
      })
      if (qmp !== undefined) return qmp
      await delay(LISTENS_POLL_MS, undefined, { signal })
    }
  } catch (error) {
    gone.signal.throwIfAborted()
    if (!limit.aborted) throw error
    throw new HypemanError('host_unavailable', `QEMU did not answer on its control socket within ${CONNECT_LIMIT_MS / 1000} s`, {
      cause: error,
    })
  }
}

/** The promise's result, or the signal's reason if it comes first; what comes later is the next caller's. */
export async function orAbort<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>()
  const onAbort = (): void => reject(signal.reason instanceof Error ? signal.reason : new Error('aborted'))
  if (signal.aborted) onAbort()
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    return await Promise.race([promise, aborted])
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}
