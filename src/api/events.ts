// What an instance's event log says, one JSON object an event, and what an image's progress stream says.
// The event log of an instance is a file of these lines; API, command line and dashboard read the same ones.

import { z } from 'zod'
import { imageStatus } from './schemas/image.ts'

const stepEvent = z.object({
  time: z.iso.datetime(),
  type: z.literal('step'),
  flow: z.string().meta({
    description: 'What was being done, for example `snapshot.create`; `guest.fork` and `guest.restore` are steps inside the guest.',
  }),
  step: z.string(),
  ms: z.number().meta({ description: 'Wall time of the step in milliseconds.' }),
  error: z.string().optional().meta({ description: 'Why the step failed; absent when it went well.' }),
  warning: z.string().optional().meta({ description: 'What is not as it should be, though the step did not fail.' }),
  note: z
    .string()
    .optional()
    .meta({ description: 'Why it took longer than it can, or what a hook has said; absent when there is nothing to say.' }),
})

const stateEvent = z.object({
  time: z.iso.datetime(),
  type: z.literal('state'),
  state: z.string().meta({ description: 'The instance state that was reached, or `Deleted`.' }),
  message: z.string(),
})

const restartEvent = z.object({
  time: z.iso.datetime(),
  type: z.literal('restart'),
  message: z.string().meta({ description: 'What was decided about starting the instance again by itself, and why.' }),
  attempts: z.int().meta({ description: 'Attempts in a row until now.' }),
  next_attempt_at: z.iso.datetime().nullable(),
  blocked_reason: z.string().nullable(),
})

const healthEvent = z.object({
  time: z.iso.datetime(),
  type: z.literal('health'),
  status: z.string().meta({ description: 'The health status that was reached.' }),
  message: z.string(),
})

export const instanceEvent = z
  .discriminatedUnion('type', [stepEvent, stateEvent, restartEvent, healthEvent])
  .meta({ id: 'InstanceEvent', description: "One entry of an instance's event log." })

export type InstanceEvent = z.infer<typeof instanceEvent>

export const imageEvent = z
  .object({
    name: z.string(),
    status: imageStatus,
    message: z.string(),
    done_bytes: z.int().optional(),
    total_bytes: z.int().optional(),
  })
  .meta({ id: 'ImageEvent', description: 'One piece of progress of a pull, push or import.' })

export type ImageEvent = z.infer<typeof imageEvent>
