// How much of a long test is done: a part of it in `npm test`, the whole in `npm run test:faults`.

export const isWhole = process.env['HYPEMAN_WHOLE_TESTS'] === '1'

export function scaled<T>(amount: { readonly part: T; readonly whole: T }): T {
  return isWhole ? amount.whole : amount.part
}
