// Names that the command line makes up when none is given.

import { randomInt } from 'node:crypto'

const LETTERS = 'abcdefghijkmnpqrstuvwxyz23456789'
const SUFFIX_LENGTH = 5
const LONGEST_NAME = 63

/** `alpine-x7k2m` for `docker.io/library/alpine:3.20`. */
export function nameFromImage(image: string): string {
  const base = (image.split('@')[0] ?? '')
    .replace(/:[^/:]*$/, '')
    .replace(/^.*\//, '')
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-+/, '')
    .slice(0, LONGEST_NAME - SUFFIX_LENGTH - 1)
    .replace(/-+$/, '')
  const suffix = Array.from({ length: SUFFIX_LENGTH }, () => LETTERS[randomInt(LETTERS.length)]).join('')
  return `${base === '' ? 'vm' : base}-${suffix}`
}
