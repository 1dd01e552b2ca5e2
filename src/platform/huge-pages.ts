// Starting a process without transparent huge pages: prctl(2), PR_SET_THP_DISABLE, which a child inherits and keeps through execve(2).

import koffi from 'koffi'

const PR_SET_THP_DISABLE = 41
const PR_GET_THP_DISABLE = 42

// Justification: Node can't set this, and no program that comes with Debian does for another.
// Safety: integers alone; a kernel that does not know the call says so, and nothing is different then.
type Prctl = (option: number, value: number, third: number, fourth: number, fifth: number) => number
let prctl: Prctl | undefined

/** What `start` starts, in this very call, gets no huge pages: a process that lives on little memory does not wait for the zeros of much. */
export function withoutHugePages<T>(start: () => T): T {
  prctl ??= koffi.load(null).func('int prctl(int option, unsigned long value, unsigned long, unsigned long, unsigned long)') as Prctl
  const before = prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0)
  if (before !== 0) return start()
  prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
  try {
    return start()
  } finally {
    prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0)
  }
}
