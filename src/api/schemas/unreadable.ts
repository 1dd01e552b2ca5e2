// What lies in the data directory and can't be read, on the wire. An addition of ours.

import { z } from 'zod'
import { timestamp } from './common.ts'

export const unreadable = z
  .object({
    kind: z.enum(['instance', 'snapshot', 'image', 'image reference', 'volume', 'pushed repository', 'snapshot schedule', 'push']),
    id: z.string().meta({
      description:
        'Name of its directory or file. An instance, snapshot or volume is deleted by it, a snapshot schedule by the id of its instance, which this is.',
    }),
    path: z.string().meta({ description: 'Where it lies on the server.' }),
    reason: z.string().meta({ description: "Why it can't be read, and what to do." }),
    created_at: timestamp.meta({ description: 'Since when it lies there.' }),
    newer: z.boolean().meta({ description: 'A newer version of hypeman wrote it, which can read it.' }),
  })
  .meta({ id: 'Unreadable', description: 'Something in the data directory that is damaged, foreign, or of a newer version.' })

export type Unreadable = Readonly<z.infer<typeof unreadable>>
