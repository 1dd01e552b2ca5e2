// Secret files: what a guest finds below /run/secrets (docs/secrets.md).

import { z } from 'zod'
import { LONGEST_SECRET_FILE, secretFileName } from '../secret-files.ts'

export const secretFiles = z
  .record(
    z.string().regex(secretFileName, 'the name of a secret file is 1 to 64 letters, digits and ._-, and does not begin with a dot'),
    z
      .string()
      .refine((text) => text.isWellFormed(), 'it is not well-formed text; encode other bytes, for example with base64')
      .refine((text) => Buffer.byteLength(text) <= LONGEST_SECRET_FILE, `it is longer than ${LONGEST_SECRET_FILE} bytes`)
      .meta({ maxLength: LONGEST_SECRET_FILE }),
  )
  .optional()
  .meta({
    description:
      'Files by name, with their text, that are secret as `secret_env` is. The guest has them in memory, as `/run/secrets/NAME` (mode 0400, of root), from its next boot on; a fork that is given some, before its programs go on. At most 64 KiB each, 256 KiB and 128 files in all. Those not named stay.',
  })
