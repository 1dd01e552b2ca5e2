// A reporter for node --test that writes the run's final counts as one JSON line, so that nobody has to parse what people read.
// Used by node-tests.ts beside the spec reporter.

import type { TestEvent } from 'node:test/reporters'

/** The counts of one whole run. */
export interface TestCounts {
  readonly passed: number
  readonly failed: number
  readonly cancelled: number
  readonly skipped: number
  readonly todo: number
}

export default async function* countReporter(events: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  for await (const event of events) {
    // A summary also comes after each file; that of the whole run names none.
    if (event.type === 'test:summary' && event.data.file === undefined) yield `${JSON.stringify(event.data.counts)}\n`
  }
}
