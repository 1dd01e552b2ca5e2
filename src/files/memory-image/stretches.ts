// Several sorted lists of pages looked at together: which stretches of pages lie in which of them, and where.

import type { PageRun } from './private-pages.ts'

/** Pages, one behind the other, that are all in the same lists. */
export interface Stretch extends PageRun {
  /** For each list, how many pages of it come before the first one; undefined if it has none of these pages. */
  readonly at: readonly (number | undefined)[]
}

/** The pages that are in any of the lists, in order, in stretches of at most `longest` pages. The runs of each list are in order and apart. */
export function* stretchesOf(lists: readonly (readonly PageRun[])[], longest: number): Generator<Stretch> {
  const cursors = lists.map((runs) => ({ runs, next: 0, passed: 0 }))
  for (let page = 0; ;) {
    let end = Number.POSITIVE_INFINITY
    const at = cursors.map((cursor) => {
      let run = cursor.runs[cursor.next]
      while (run !== undefined && run.first + run.count <= page) {
        cursor.passed += run.count
        run = cursor.runs[(cursor.next += 1)]
      }
      if (run === undefined) return undefined
      const isIn = run.first <= page
      end = Math.min(end, isIn ? run.first + run.count : run.first)
      return isIn ? cursor.passed + page - run.first : undefined
    })
    if (end === Number.POSITIVE_INFINITY) return
    if (at.some((place) => place !== undefined)) {
      end = Math.min(end, page + longest)
      yield { first: page, count: end - page, at }
    }
    page = end
  }
}

/** Neighbours together, so that each group has at most `most` pages; no stretch is longer than that. */
export function* groupsOf(stretches: Iterable<Stretch>, most: number): Generator<readonly Stretch[]> {
  let [group, pages]: [Stretch[], number] = [[], 0]
  for (const stretch of stretches) {
    if (pages + stretch.count > most) {
      yield group
      ;[group, pages] = [[], 0]
    }
    group.push(stretch)
    pages += stretch.count
  }
  if (group.length > 0) yield group
}
