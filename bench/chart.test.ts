// The chart is an SVG that any reader of XML takes, with each row that has a target.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { chartOf } from './chart.ts'
import { limitRow, rateRow, toldRow } from './measure.ts'

/** Complains about tags that don't match and about what should have been escaped: XML 1.0, 2.4 and 3. */
function checkWellFormed(xml: string): void {
  const open: string[] = []
  const rest = xml.replace(
    /<(\/?)([\w:]+)((?:\s+[\w:-]+="[^"<]*")*)\s*(\/?)>/g,
    (_tag, closing: string, name: string, _, empty: string) => {
      if (closing === '/') assert.equal(open.pop(), name)
      else if (empty === '') open.push(name)
      return ''
    },
  )
  assert.deepEqual(open, [])
  assert.doesNotMatch(rest, /[<>]/)
  assert.doesNotMatch(xml, /&(?!(?:\w+|#\d+);)/)
}

const rows = [
  limitRow('S1', 'met <&> "quoted"', 'ms', 10, [5]),
  limitRow('S2', 'missed', 'ms', 10, [312]),
  rateRow('S9', 'rate', '/s', 3000, [1500]),
  limitRow('S10', 'nothing at all', '%', 0.5, [0]),
  toldRow('S4', 'only told', 'ms', [7]),
]

test('a chart is well-formed SVG with a label and a number for each row that has a target', async () => {
  const svg = await chartOf(rows)
  checkWellFormed(svg)
  assert.match(svg, /^<svg xmlns="http:\/\/www\.w3\.org\/2000\/svg"/)
  for (const text of ['S1  met &lt;&amp;&gt; "quoted"', 'S2  missed', '312 ms', '1500 /s', '0.00 %'])
    assert.ok(svg.includes(`>${text}<`), text)
  assert.doesNotMatch(svg, /only told/)
})

test('its text is in the colour of the page, light or dark, and the target line is there', async () => {
  const svg = await chartOf(rows)
  assert.match(svg, /prefers-color-scheme:dark/)
  assert.doesNotMatch(svg, /(?:fill|stroke)="(?:black|white|#000|#fff)/)
  assert.match(svg, /stroke-dasharray="4,3"/)
})

test('the same numbers give the same file', async () => {
  assert.equal(await chartOf(rows), await chartOf(rows))
})

test('no rows give an empty chart, not an error', async () => {
  checkWellFormed(await chartOf([]))
})
