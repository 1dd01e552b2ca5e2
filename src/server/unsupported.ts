// Fields of the wire that ask for what this server can't do yet: refused before anything happens, rather than ignored. Absent, empty or disabled they are fine.

import { HypemanError } from '../api/errors.ts'
import type { CreateInstanceBody } from '../api/schemas/instance-requests.ts'

/** A field, what is missing, and whether the body asks for it. */
type Row<Body> = readonly [field: string, what: string, asked: (body: Body) => boolean]

const ofCreate: readonly Row<CreateInstanceBody>[] = [
  ['credentials', 'credentials injected into outgoing traffic', ({ credentials }) => Object.keys(credentials ?? {}).length > 0],
  ['devices', 'passing devices of the host through', ({ devices }) => (devices ?? []).length > 0],
  ['gpu', 'virtual GPUs', ({ gpu }) => (gpu?.profile ?? '') !== ''],
]

export function refuseUnsupportedCreate(body: CreateInstanceBody): void {
  refuse(ofCreate, body)
}

function refuse<Body>(rows: readonly Row<Body>[], body: Body): void {
  const asked = rows.filter(([, , isAsked]) => isAsked(body))
  const [first] = asked
  if (first === undefined) return
  const details = asked.map(([field, what]) => ({ code: 'not_supported', message: `${field}: ${what} is not supported yet` }))
  throw new HypemanError('not_supported', `${first[0]}: ${first[1]} is not supported yet; leave the field out`, {
    details: details.length > 1 ? details : [],
  })
}
