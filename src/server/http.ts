// The HTTP server: hooks that every request passes, then the routes. Rules of the product live behind the services, not here.

import { randomBytes } from 'node:crypto'
import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import websocket from '@fastify/websocket'
import { fastify, type FastifyBaseLogger, type FastifyInstance } from 'fastify'
import { serializerCompiler, type ZodTypeProvider } from 'fastify-type-provider-zod'
import type { Logger } from 'pino'
import { HypemanError } from '../api/errors.ts'
import type { RegistryService } from '../registry/types.ts'
import type { RequestListener, RequestTracer } from '../telemetry/types.ts'
import { requireScope, type Authenticator } from './auth.ts'
import { LONGEST_JSON, readJsonBodies } from './bodies.ts'
import { limitConnections } from './connections.ts'
import { answerError, routeNotFound } from './errors.ts'
import type { HttpLimits } from './limits.ts'
import { describeAccess, openApiOptions } from './openapi.ts'
import { referencePages } from './reference-pages.ts'
import { registryRoutes } from './registry.ts'
import { limitRates } from './rate-limit.ts'
import { OneLineController, tellOfRequests, type UpgradeTelling } from './request-log.ts'
import { absentRoutes } from './routes/absent.ts'
import { attachmentRoutes } from './routes/attachments.ts'
import { autoStandbyRoutes } from './routes/auto-standby.ts'
import type { App, MetricsSource, RouteContext, RouteServices } from './routes/context.ts'
import { eventRoutes } from './routes/events.ts'
import { imageImportRoute, imageRoutes } from './routes/images.ts'
import { instanceRoutes } from './routes/instances.ts'
import { pushRoutes } from './routes/pushes.ts'
import { scheduleRoutes } from './routes/schedules.ts'
import { snapshotRoutes } from './routes/snapshots.ts'
import { streamRoutes } from './routes/streams.ts'
import { descriptionRoutes, systemRoutes } from './routes/system.ts'
import { volumeArchiveRoute, volumeRoutes } from './routes/volumes.ts'
import { limitSlowBodies, limitSlowReaders } from './slow-clients.ts'
import { limitStreams } from './stream-limit.ts'
import { splittingSocket } from './streams/split-frames.ts'
import { answerUnreadable } from './unreadable-requests.ts'
import { canonicalTarget, parseQuery } from './urls.ts'
import { checkPart } from './validation.ts'

export interface HttpServerOptions {
  readonly services: RouteServices
  /** Without one, there is no /v2. */
  readonly registry?: RegistryService | undefined
  readonly authenticator: Authenticator
  readonly log: Logger
  readonly version: string
  /** Aborts when the server stops: streams and waits end, so that closing does not wait for them. */
  readonly stopping: AbortSignal
  /** Hear of every request. */
  readonly listeners?: readonly RequestListener[] | undefined
  readonly tracer?: RequestTracer | undefined
  readonly metrics?: MetricsSource | undefined
  /** Of one subject; 0 or absent: as many as they like. */
  readonly requestsPerMinute?: number | undefined
  readonly limits: HttpLimits
}

/** An image's reference has up to 1024 characters, each up to three when encoded. */
const LONGEST_PARAMETER = 4096
/** Largest WebSocket message that is taken, in bytes; frames of bytes are divided before. */
const LONGEST_MESSAGE = 16 * 1024 ** 2
/** How often Node looks for heads that do not come, in milliseconds; a shorter limit is looked at as often as it lasts. */
const LOOK_AT_HEADS_MS = 5_000

function newRequestId(): string {
  return randomBytes(8).toString('hex')
}

/** As Node's own error for heads that do not come. */
function bodyTimeout(): Error {
  return Object.assign(new Error('the body did not come'), { code: 'ERR_HTTP_REQUEST_TIMEOUT' })
}

/** Makes the server; the caller lets it listen. */
export async function createHttpServer(options: HttpServerOptions): Promise<FastifyInstance> {
  const logger: FastifyBaseLogger = options.log
  const { limits } = options
  const app = fastify({
    loggerInstance: logger,
    logController: new OneLineController(),
    bodyLimit: LONGEST_JSON,
    keepAliveTimeout: limits.keepAliveMs,
    http: { headersTimeout: limits.headersMs, connectionsCheckingInterval: Math.min(LOOK_AT_HEADS_MS, limits.headersMs) },
    genReqId: newRequestId,
    rewriteUrl: (request) => canonicalTarget(request.method ?? 'GET', request.url ?? '/'),
    routerOptions: { maxParamLength: LONGEST_PARAMETER, querystringParser: parseQuery },
    frameworkErrors: (error, request, reply) => void answerError(error, request, reply),
    clientErrorHandler: (error, socket) => answerUnreadable(error, socket, logger, newRequestId()),
  })
  limitConnections(app.server, { most: limits.connections, log: logger, newRequestId })
  limitSlowBodies(app.server, limits.bodyMs, (socket) => answerUnreadable(bodyTimeout(), socket, logger, newRequestId()))
  limitSlowReaders(app, limits.bodyMs)
  app.setValidatorCompiler(checkPart)
  app.setSerializerCompiler(serializerCompiler)
  app.setErrorHandler(answerError)
  app.setNotFoundHandler((request) => {
    throw routeNotFound(request)
  })
  const telling = tellOfRequests(app, { listeners: options.listeners ?? [], tracer: options.tracer })
  // Before the description of the API, to which it does not belong.
  if (options.registry !== undefined)
    await app.register(registryRoutes({ registry: options.registry, authenticator: options.authenticator }))
  await app.register(swagger, openApiOptions(options.version))
  await app.register(swaggerUi, referencePages)
  await app.register(websocket, { options: { maxPayload: LONGEST_MESSAGE, WebSocket: splittingSocket } })
  await app.register(async (api) => registerApi(api.withTypeProvider<ZodTypeProvider>(), options, telling))
  return app
}

async function registerApi(api: App, options: HttpServerOptions, telling: UpgradeTelling): Promise<void> {
  const { services, stopping, metrics } = options
  const context: RouteContext = { services, stopping, telling, metrics, firstFrameMs: options.limits.bodyMs }
  api.addHook('onRequest', async (request) => {
    const { access } = request.routeOptions.config
    if (access === 'public') return
    const caller = await options.authenticator.bearer(request.headers.authorization)
    request.caller = caller
    if (access === undefined) throw new HypemanError('forbidden', 'nobody may use this route: it names no scope')
    requireScope(caller, access)
  })
  await limitRates(api, options.requestsPerMinute ?? 0)
  limitStreams(api, options.limits.streamsPerSubject)
  describeAccess(api)
  readJsonBodies(api)
  const routes = [
    systemRoutes,
    instanceRoutes,
    eventRoutes,
    streamRoutes,
    autoStandbyRoutes,
    snapshotRoutes,
    scheduleRoutes,
    imageRoutes,
    pushRoutes,
    volumeRoutes,
    attachmentRoutes,
  ]
  for (const register of routes) register(api, context)
  descriptionRoutes(api)
  // These read their bodies otherwise, so each has a scope of its own.
  for (const register of [imageImportRoute, volumeArchiveRoute, absentRoutes])
    await api.register(async (scope) => register(scope.withTypeProvider<ZodTypeProvider>(), context))
}
