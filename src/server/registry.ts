// The routes of the server's own registry below /v2: the OCI distribution API for docker push, skopeo, image builders and the official client.
// Mounted outside the API's hooks: container tools sign in and take errors in their own way. What is kept and how is registry/.

import { createReadStream } from 'node:fs'
import { Readable } from 'node:stream'
import type { FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify'
import { isHypemanError } from '../api/errors.ts'
import { OciError, type RegistryService, type StoredBlob, type UploadState } from '../registry/types.ts'
import { mayDo, type Authenticator } from './auth.ts'
import { apart } from './bodies.ts'

export interface RegistryRoutesOptions {
  readonly registry: RegistryService
  readonly authenticator: Pick<Authenticator, 'registry'>
}

/** Clients ask for a new token after this, in seconds; it is the caller's own, so nothing is gained by asking. */
const TOKEN_LIFE_SECONDS = 300
const API_VERSION = { 'docker-distribution-api-version': 'registry/2.0' }

export function registryRoutes(options: RegistryRoutesOptions): FastifyPluginAsync {
  const { registry, authenticator } = options
  return async (app) => {
    // Bodies of any type and length are read as they come.
    app.removeAllContentTypeParsers()
    app.addContentTypeParser('*', (_request, payload, done) => done(null, payload))
    app.setErrorHandler((error, request, reply) => answerOciError(error, request, reply))

    app.get('/v2/token', { config: { access: 'public' } }, async (request, reply) => {
      await authenticator.registry(request.headers.authorization)
      const token = await ownToken(authenticator, request.headers.authorization)
      return reply.send({ token, access_token: token, expires_in: TOKEN_LIFE_SECONDS, issued_at: new Date().toISOString() })
    })
    const signedIn = async (request: FastifyRequest): Promise<void> => {
      const caller = await authenticator.registry(request.headers.authorization)
      request.caller = caller
      const scope = request.method === 'GET' || request.method === 'HEAD' ? 'image:read' : 'image:write'
      if (!mayDo(caller, scope)) throw new OciError('DENIED', `missing required scope: ${scope}`)
    }
    const root = { exposeHeadRoute: false, onRequest: signedIn, config: { access: 'public' as const, metered: 'registry' } }
    for (const url of ['/v2', '/v2/']) app.get(url, root, async (_request, reply) => reply.headers(API_VERSION).send({}))
    app.route<{ Params: { '*': string } }>({
      ...root,
      method: ['GET', 'HEAD', 'POST', 'PATCH', 'PUT', 'DELETE'],
      url: '/v2/*',
      handler: async (request, reply) => {
        void reply.headers(API_VERSION)
        return await answer(registry, request.params['*'], request, reply)
      },
    })
  }
}

const targets = {
  uploads: /^(.+)\/blobs\/uploads\/?$/,
  upload: /^(.+)\/blobs\/uploads\/([0-9a-f]+)$/,
  blob: /^(.+)\/blobs\/([^/]+)$/,
  manifest: /^(.+)\/manifests\/([^/]+)$/,
  tags: /^(.+)\/tags\/list$/,
} as const

async function answer(registry: RegistryService, target: string, request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
  for (const [kind, pattern] of Object.entries(targets)) {
    const [, repository, name = ''] = pattern.exec(target) ?? []
    if (repository === undefined) continue
    const handler = handlers[`${request.method} ${kind}`]
    if (handler === undefined) throw new OciError('UNSUPPORTED', `${request.method} is not supported here`)
    return await handler({ registry, repository, name, request, reply })
  }
  throw new OciError('NAME_UNKNOWN', `there is no ${request.method} /v2/${target}`)
}

interface Call {
  readonly registry: RegistryService
  readonly repository: string
  /** Digest, tag or upload. */
  readonly name: string
  readonly request: FastifyRequest
  readonly reply: FastifyReply
}

type Handler = (call: Call) => Promise<FastifyReply>

const getBlob: Handler = async ({ registry, repository, name, request, reply }) => {
  return sendBlob(await registry.blob(repository, name), 'application/octet-stream', request, reply)
}

const getManifest: Handler = async ({ registry, repository, name, request, reply }) => {
  const manifest = await registry.manifest(repository, name)
  return sendBlob(manifest, manifest.mediaType, request, reply)
}

const headManifest: Handler = async ({ registry, repository, name, request, reply }) => {
  const manifest = await registry.pushed(repository, name)
  return sendBlob(manifest, manifest.mediaType, request, reply)
}

const handlers: Readonly<Record<string, Handler | undefined>> = {
  'HEAD blob': getBlob,
  'GET blob': getBlob,
  'HEAD manifest': headManifest,
  'GET manifest': getManifest,

  'GET tags': async ({ registry, repository, reply }) => reply.send({ name: repository, tags: registry.tags(repository) }),

  // A wish to mount a blob of another repository is answered with an upload, as the specification allows: HEAD has said whether it is here.
  'POST uploads': async ({ registry, repository, reply }) =>
    sendUpload(await registry.startUpload(repository), repository, reply.code(202)),

  'GET upload': async ({ registry, repository, name, reply }) => sendUpload(registry.upload(repository, name), repository, reply.code(204)),

  'PATCH upload': async ({ registry, repository, name, request, reply }) => {
    const state = await registry.appendUpload(repository, name, bodyOf(request), chunkStart(request))
    return sendUpload(state, repository, reply.code(202))
  },

  'PUT upload': async ({ registry, repository, name, request, reply }) => {
    const { digest } = request.query as { digest?: unknown }
    if (typeof digest !== 'string') throw new OciError('DIGEST_INVALID', 'the query has no digest; append ?digest=sha256:…')
    const from = chunkStart(request)
    if (from !== undefined && from !== registry.upload(repository, name).offset) throw rangeInvalid(registry.upload(repository, name))
    const blob = await registry.finishUpload(repository, name, digest, bodyOf(request))
    return reply
      .code(201)
      .headers({ location: `/v2/${repository}/blobs/${blob.digest}`, 'docker-content-digest': blob.digest })
      .send()
  },

  'DELETE upload': async ({ registry, repository, name, reply }) => {
    await registry.cancelUpload(repository, name)
    return reply.code(204).send()
  },

  'PUT manifest': async ({ registry, repository, name, request, reply }) => {
    const body = await readAll(bodyOf(request), registry.maxManifestBytes)
    const mediaType = request.headers['content-type']
    const manifest = await registry.putManifest({ repository, reference: name, mediaType, body, host: request.headers.host })
    return reply
      .code(201)
      .headers({ location: `/v2/${repository}/manifests/${manifest.digest}`, 'docker-content-digest': manifest.digest })
      .send()
  },
}

function sendBlob(blob: StoredBlob, type: string, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  void reply.type(type).headers({ 'content-length': blob.sizeBytes, 'docker-content-digest': blob.digest, etag: `"${blob.digest}"` })
  return request.method === 'HEAD' ? reply.send() : reply.send(createReadStream(blob.path))
}

/** The range names the last byte that is here; an upload without bytes says `0-0`, as clients expect. */
function sendUpload({ id, offset }: UploadState, repository: string, reply: FastifyReply): FastifyReply {
  return reply
    .headers({
      location: `/v2/${repository}/blobs/uploads/${id}`,
      range: `0-${Math.max(offset - 1, 0)}`,
      'docker-upload-uuid': id,
      'content-length': 0,
    })
    .send()
}

function bodyOf(request: FastifyRequest): Readable {
  return request.body instanceof Readable ? apart(request.body) : Readable.from([])
}

/** Where the chunk begins, if the client says so: `0-99`, or `bytes 0-99/*`. */
function chunkStart(request: FastifyRequest): number | undefined {
  const header = request.headers['content-range']
  if (header === undefined) return undefined
  const [, start] = /^(?:bytes[ =])?(\d+)-\d+/.exec(header) ?? []
  if (start === undefined) throw new OciError('RANGE_INVALID', `the Content-Range ${JSON.stringify(header)} is malformed; send first-last`)
  return Number(start)
}

function rangeInvalid({ offset }: UploadState): OciError {
  return new OciError('RANGE_INVALID', `the chunk does not begin at ${offset}, where the upload ends`)
}

async function readAll(body: Readable, atMost: number): Promise<Buffer> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of body as AsyncIterable<Buffer>) {
    bytes += chunk.length
    if (bytes > atMost) throw new OciError('SIZE_INVALID', `a manifest may have at most ${atMost} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

/** The token that the caller signed in with, which container tools then send as bearer. */
async function ownToken(authenticator: RegistryRoutesOptions['authenticator'], authorization = ''): Promise<string> {
  const [, scheme = '', value = ''] = /^(\S+) +(\S+)\s*$/.exec(authorization) ?? []
  if (scheme.toLowerCase() === 'bearer') return value
  const pair = Buffer.from(value, 'base64').toString('utf8')
  const colon = pair.indexOf(':')
  const [user, password] = colon < 0 ? [pair, ''] : [pair.slice(0, colon), pair.slice(colon + 1)]
  const isPassword = await authenticator.registry(`Bearer ${password}`).then(
    () => true,
    () => false, // then the user name is the token: one of the two was accepted
  )
  return isPassword ? password : user
}

function answerOciError(error: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const { status, code, message } = ociErrorOf(error, request)
  void reply.headers(API_VERSION)
  if (status === 401)
    void reply.header(
      'www-authenticate',
      `Bearer realm="${request.protocol}://${request.headers.host ?? 'localhost'}/v2/token",service="hypeman"`,
    )
  return reply
    .code(status)
    .type('application/json; charset=utf-8')
    .serializer(JSON.stringify as (payload: unknown) => string)
    .send({ errors: [{ code, message }] })
}

function ociErrorOf(error: unknown, request: FastifyRequest): { status: number; code: string; message: string } {
  if (error instanceof OciError) return { status: error.status, code: error.code, message: error.message }
  if (isHypemanError(error, 'unauthorized')) return { status: 401, code: 'UNAUTHORIZED', message: 'authentication required' }
  if (isHypemanError(error)) return { status: error.status, code: error.code.toUpperCase(), message: error.message }
  if (error instanceof Error && 'code' in error && error.code === 'ECONNRESET')
    return { status: 400, code: 'BLOB_UPLOAD_INVALID', message: 'the connection broke before the body ended' }
  request.log.error({ err: error }, 'a request to the registry failed by a fault of the server')
  return { status: 500, code: 'UNKNOWN', message: `the server failed; its log has the details under ${request.id}` }
}
