import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { withoutHugePages } from './huge-pages.ts'

/** proc(5): `THP_enabled` of a process. */
const words = /^THP_enabled:\s+(\d)$/m
const ofChild = (): string | undefined => words.exec(execFileSync('cat', ['/proc/self/status'], { encoding: 'utf8' }))?.[1]
const ownNow = words.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]

test(
  'what is started so has no huge pages, and what is started later has',
  { skip: ownNow !== '1' && 'this process has none either' },
  () => {
    assert.equal(ofChild(), '1')
    assert.equal(withoutHugePages(ofChild), '0')
    assert.throws(() => withoutHugePages(() => assert.fail('nothing could be started')), /nothing could be started/)
    assert.equal(ofChild(), '1')
  },
)
