// Connections of the server's own health checks into a guest: they are no uses of it, and are told from those of others by the host's port that they come from.

/** For so long after its end a connection may be seen, in milliseconds: checks end theirs by a reset, which the kernel's tracking remembers for ten seconds by default. */
const REMEMBERED_MS = 120_000

export interface OwnProbes {
  /** One from this port is under way until the result is disposed of. */
  begin(port: number): Disposable
  /** Whether a connection that was seen is one of them. `endedMs`: how long ago it ended; null while it is open, which is somebody else's once the check is over. */
  isOwn(port: number, endedMs: number | null, nowMs: number): boolean
}

export function createOwnProbes(): OwnProbes {
  const underWay = new Set<number>()
  /** By port, when the last one ended, in milliseconds since 1970; the oldest first. */
  const ended = new Map<number, number>()
  return {
    begin(port) {
      underWay.add(port)
      return {
        [Symbol.dispose]() {
          const nowMs = Date.now()
          underWay.delete(port)
          ended.delete(port)
          ended.set(port, nowMs)
          for (const [old, endMs] of ended) {
            if (nowMs - endMs <= REMEMBERED_MS) break
            ended.delete(old)
          }
        },
      }
    },
    isOwn(port, endedMs, nowMs) {
      if (underWay.has(port)) return true
      const endMs = ended.get(port)
      return endedMs !== null && endMs !== undefined && nowMs - endMs <= REMEMBERED_MS
    },
  }
}
