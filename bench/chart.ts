// docs/benchmarks.svg: each row as a share of its target, on a logarithmic axis, since rows miss by factors and beat by factors. Drawn by Vega,
// which needs neither a browser nor a canvas (docs/decisions/007-chart-by-vega.md).

import { parse, View, type Spec } from 'vega'
import type { Row } from './measure.ts'
import { quantity } from './report.ts'

const ROW_HEIGHT = 22
const PLOT_WIDTH = 420
/** Both are read on white and on black, and told apart without colours by the filled and the open dot. */
const COLORS = { met: '#2f9e5f', missed: '#e0651f' } as const
const FONT = 'system-ui, sans-serif'
const FONT_SIZE = 11
/** Room for labels is reckoned here: without a canvas Vega can only guess, and guesses half too wide. */
const CHARACTER_WIDTH = 6.2
const TICKS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]
/** What is better than this, as nothing at all is, stands here: a logarithm has no zero. */
const LEAST_SHARE = 0.02
/** Text and lines are in the colour of the page's text: an SVG that stands in a page as an image knows light and dark, but not the page. */
const STYLE = '<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#e6edf3}}</style>'

interface Dot {
  readonly label: string
  readonly ofTarget: number
  readonly met: boolean
  readonly told: string
}

/** Text of an SVG file. Rows without a target are not in it. */
export async function chartOf(rows: readonly Row[]): Promise<string> {
  const dots = rows.flatMap((row) => (row.ofTarget === undefined ? [] : [dotOf(row, Math.max(LEAST_SHARE, row.ofTarget))]))
  const view = new View(parse(specOf(dots)), { renderer: 'none' })
  const svg = await view.toSVG()
  view.finalize()
  return `${svg.replace(/^<svg[^>]*>/, (opening) => `${opening}${STYLE}`)}\n`
}

function dotOf({ id, what, value, unit, met }: Row, ofTarget: number): Dot {
  return { label: `${id}  ${what}`, ofTarget, met: met === true, told: quantity(value, unit) }
}

function specOf(dots: readonly Dot[]): Spec {
  const height = Math.max(1, dots.length) * ROW_HEIGHT
  const shares = [0.5, 2, ...dots.map(({ ofTarget }) => ofTarget)]
  const color = { signal: `datum.met ? '${COLORS.met}' : '${COLORS.missed}'` }
  const line = { band: 0.5 }
  const row = { scale: 'y', field: 'label', ...line }
  const text = { font: { value: FONT }, fontSize: { value: FONT_SIZE }, fill: { value: 'currentColor' } }
  const left = Math.ceil(Math.max(0, ...dots.map(({ label }) => label.length)) * CHARACTER_WIDTH) + 16
  return {
    width: PLOT_WIDTH,
    height,
    autosize: 'none',
    padding: { left, top: 8, right: 72, bottom: 44 },
    data: [{ name: 'rows', values: [...dots] }],
    scales: [
      { name: 'x', type: 'log', range: 'width', domain: [Math.min(...shares) / 1.6, Math.max(...shares) * 1.1] },
      { name: 'y', type: 'band', range: 'height', domain: dots.map(({ label }) => label) },
    ],
    axes: [
      {
        ...{ orient: 'bottom', scale: 'x', values: TICKS, format: '~g', grid: true, gridColor: 'currentColor', gridOpacity: 0.12 },
        ...{ title: 'share of the target, logarithmic (left of 1: met)', titleFontWeight: 'normal', ...axisText('title') },
        ...axisText('label'),
        ...{ domainColor: 'currentColor', tickColor: 'currentColor' },
      },
      { orient: 'left', scale: 'y', ticks: false, domain: false, labelLimit: 0, labelPadding: 8, ...axisText('label') },
    ],
    marks: [
      {
        type: 'rule',
        encode: {
          enter: {
            ...{ x: { scale: 'x', value: 1 }, y: { value: 0 }, y2: { value: height } },
            ...{ stroke: { value: 'currentColor' }, strokeWidth: { value: 1.5 }, strokeDash: { value: [4, 3] } },
          },
        },
      },
      {
        type: 'rule',
        from: { data: 'rows' },
        encode: {
          enter: { x: { scale: 'x', value: 1 }, x2: { scale: 'x', field: 'ofTarget' }, y: row, stroke: color, strokeWidth: { value: 3 } },
        },
      },
      {
        type: 'symbol',
        from: { data: 'rows' },
        encode: {
          enter: {
            ...{ x: { scale: 'x', field: 'ofTarget' }, y: row, size: { value: 70 } },
            ...{ fill: color, fillOpacity: { signal: 'datum.met ? 1 : 0' }, stroke: color, strokeWidth: { value: 2.5 } },
          },
        },
      },
      {
        type: 'text',
        from: { data: 'rows' },
        encode: {
          enter: {
            ...{ x: { scale: 'x', field: 'ofTarget', offset: { signal: 'datum.ofTarget < 1 ? -9 : 9' } }, y: row },
            ...{
              text: { field: 'told' },
              align: { signal: "datum.ofTarget < 1 ? 'right' : 'left'" },
              baseline: { value: 'middle' },
              ...text,
            },
          },
        },
      },
    ],
  }
}

function axisText<Part extends 'label' | 'title'>(part: Part): Readonly<Record<string, string | number>> {
  return { [`${part}Color`]: 'currentColor', [`${part}Font`]: FONT, [`${part}FontSize`]: FONT_SIZE }
}
