// What every file of routes is given, and the words that their declarations share.

import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { FastifyBaseLogger, FastifyInstance, FastifyRequest } from 'fastify'
import type { ZodTypeProvider } from 'fastify-type-provider-zod'
import { z } from 'zod'
import { HypemanError, type ErrorCode } from '../../api/errors.ts'
import { errorBody } from '../../api/schemas/common.ts'
import type { Access } from '../auth.ts'
import type { UpgradeTelling } from '../request-log.ts'
import type { Services } from '../services.ts'

export type App = FastifyInstance<Server, IncomingMessage, ServerResponse, FastifyBaseLogger, ZodTypeProvider>

/** Of the services, what routes may call. */
export interface RouteServices extends Omit<Services, 'images' | 'pushes'> {
  readonly images: Pick<Services['images'], 'pull' | 'importArchive' | 'list' | 'get' | 'tag' | 'remove' | 'progress'>
  readonly pushes: Pick<Services['pushes'], 'create' | 'list' | 'get'>
}

export interface RouteContext {
  readonly services: RouteServices
  /** Aborts when the server stops: streams and waits end. */
  readonly stopping: AbortSignal
  readonly telling: UpgradeTelling
  /** How long the first frame of an upgraded connection may take, in milliseconds. */
  readonly firstFrameMs: number
  readonly metrics: MetricsSource | undefined
}

/** What GET /metrics answers with. */
export interface MetricsSource {
  /** Whoever reaches the server may read them. */
  readonly isPublic: boolean
  read(): Promise<{ readonly type: string; readonly text: string }>
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** What the caller must be allowed to do. A route without it lets nobody in. */
    access?: Access
    /** Error code for fields whose check names none, where it is not `invalid_request`. */
    wrongFieldCode?: ErrorCode
  }
  interface FastifySchema {
    /** Codes of the error table that are peculiar to the operation. */
    'x-error-codes'?: readonly ErrorCode[]
  }
}

/** Whom the caller's token speaks for; every route but the public ones has a caller. */
export function subjectOf({ caller }: FastifyRequest): string {
  if (caller === undefined) throw new HypemanError('unauthorized', 'authorization header required')
  return caller.subject
}

/** Goes with the answers of every operation. */
export const failure = { default: errorBody } as const

/** The answer of an operation that has nothing to say. */
export const nothing = z.null().meta({ description: 'Done; no body.' })

/** Codes of operations that name one instance or snapshot; `conflict`: its record can't be read. */
export const lookupErrors = ['not_found', 'ambiguous', 'conflict'] as const satisfies readonly ErrorCode[]

/** Codes of operations that write what they did: the disk may be full, or fail. What is deleted needs no room, and only the second can be. */
export const writeErrors = ['storage_full', 'storage_unsuitable'] as const satisfies readonly ErrorCode[]
