// What skopeo sends through a token gateway: passed on as it comes, with the length that skopeo gave, and never held. Where the registry says that an
// upload goes on is turned into a path of the gateway's.

import { request as httpRequest, type IncomingMessage, type OutgoingHttpHeaders, type ServerResponse } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { pipeline } from 'node:stream/promises'

/** What is behind a gateway. */
export interface Behind {
  /** `https://host`. */
  readonly origin: string
  readonly token: string
  /** `/v2/secret/`: how the paths that skopeo asks for begin. */
  readonly before: string
}

/** Headers of every answer of a registry that skopeo is told. */
export const passedOn = ['content-type', 'content-length', 'docker-content-digest', 'www-authenticate', 'retry-after']

const sentOn = ['content-type', 'content-length', 'content-range', 'accept']
const answeredWith = [...passedOn, 'range', 'docker-upload-uuid', 'oci-subject']

/** `wanted` is the URL at the registry. Rejects when either side breaks off. */
export async function sendOn(request: IncomingMessage, response: ServerResponse, wanted: string, behind: Behind): Promise<void> {
  const send = wanted.startsWith('https:') ? httpsRequest : httpRequest
  const headers: OutgoingHttpHeaders = { authorization: `Bearer ${behind.token}` }
  for (const name of sentOn) if (request.headers[name] !== undefined) headers[name] = request.headers[name]
  const upstream = send(wanted, { method: request.method, headers })
  const answered = new Promise<IncomingMessage>((resolve, reject) => {
    upstream.once('response', resolve)
    upstream.once('error', reject)
  })
  response.once('close', () => upstream.destroy())
  // A registry may answer, with a refusal, before it has taken everything.
  const answer = await Promise.race([answered, pipeline(request, upstream).then(() => answered)])
  const told: OutgoingHttpHeaders = {}
  for (const name of answeredWith) if (answer.headers[name] !== undefined) told[name] = answer.headers[name]
  const {
    statusCode: status = 502,
    headers: { location },
  } = answer
  // Nobody goes where a finished upload is: the place may be anywhere, and is left out.
  if (location !== undefined && isFollowed(status)) told['location'] = inGateway(location, wanted, behind)
  response.writeHead(status, told)
  await pipeline(answer, response)
}

/** 202: the upload goes on there. */
function isFollowed(status: number): boolean {
  return status === 202 || (status >= 300 && status < 400)
}

/** A place at the same registry as a path of the gateway; the token is for no other, and skopeo would go there without checking who answers. */
export function inGateway(location: string, wanted: string, { origin, before }: Behind): string {
  const place = new URL(location, wanted)
  if (place.origin !== new URL(origin).origin)
    throw new Error(`the registry sends the upload to ${place.origin}, where the token is not for`)
  const path = place.pathname.startsWith('/v2/') ? place.pathname.slice('/v2/'.length) : `${OUTSIDE}${place.pathname}`
  return `${before}${path}${place.search}`
}

/** What a path of the gateway's stands for, which begins with `before`: the URL at the registry. */
export function atRegistry(path: string, { origin, before }: Behind): string {
  const rest = path.slice(before.length)
  return rest.startsWith(`${OUTSIDE}/`) ? `${origin}${rest.slice(OUTSIDE.length)}` : `${origin}/v2/${rest}`
}

/** Stands for the registry's root in paths of the gateway: some take uploads elsewhere than below /v2/. No repository begins with a dot (OCI distribution specification). */
const OUTSIDE = '.outside'
