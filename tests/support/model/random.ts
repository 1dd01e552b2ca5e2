// Random choices that a seed repeats: mulberry32 (Tommy Ettinger, public domain), quite random enough to choose what to ask a server.

export interface Random {
  /** From 0 up to, not including, `below`. */
  whole(below: number): number
  chance(probability: number): boolean
  /** One of them; undefined if there is none. */
  oneOf<T>(choices: readonly T[]): T | undefined
  /** By weight; those of weight 0 never. */
  weighted<T>(choices: readonly (readonly [weight: number, value: T])[]): T | undefined
}

export function seededRandom(seed: number): Random {
  let state = seed >>> 0
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  const whole = (below: number): number => Math.floor(next() * below)
  return {
    whole,
    chance: (probability) => next() < probability,
    oneOf: (choices) => choices[whole(choices.length)],
    weighted(choices) {
      let left = next() * choices.reduce((sum, [weight]) => sum + weight, 0)
      return choices.find(([weight]) => (left -= weight) < 0)?.[1]
    },
  }
}
