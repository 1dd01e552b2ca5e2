// What the operations of absent.ts take and answer in the official client's words, so that the description of the API has all of them.
// Described, not checked: whatever is sent there, the answer is the same.

import type { FastifySchema } from 'fastify'
import { z } from 'zod'
import { build, buildEvent, buildEventsQuery, buildParams, createBuildForm } from '../../api/schemas/build.ts'
import { builder, builderParams, createBuilderBody } from '../../api/schemas/builder.ts'
import { tagFilter } from '../../api/schemas/common.ts'
import { availableDevice, createDeviceBody, device, deviceParams } from '../../api/schemas/device.ts'
import { createIngressBody, ingress, ingressParams } from '../../api/schemas/ingress.ts'
import { nothing } from './context.ts'

const querystring = z.object({ tags: tagFilter })

const described = (operationId: string, summary: string, rest: FastifySchema): FastifySchema => ({ operationId, summary, ...rest })

export const absentSchemas: Readonly<Record<string, FastifySchema>> = {
  'GET /builds': described('listBuilds', 'List builds', { querystring, response: { 200: z.array(build) } }),
  'POST /builds': described('createBuild', 'Build an image', {
    consumes: ['multipart/form-data'],
    body: createBuildForm,
    response: { 202: build },
  }),
  'GET /builds/:id': described('getBuild', 'Show a build', { params: buildParams, response: { 200: build } }),
  'DELETE /builds/:id': described('cancelBuild', 'Cancel a build', { params: buildParams, response: { 204: nothing } }),
  'GET /builds/:id/events': described('streamBuildEvents', 'Read or follow what a build says', {
    params: buildParams,
    querystring: buildEventsQuery,
    response: { 200: { description: 'Server-sent events.', content: { 'text/event-stream': { schema: buildEvent } } } },
  }),
  'GET /builders': described('listBuilders', 'List builders', { querystring, response: { 200: z.array(builder) } }),
  'POST /builders': described('createBuilder', 'Make a builder', { body: createBuilderBody, response: { 201: builder } }),
  'GET /builders/:id': described('getBuilder', 'Show a builder', { params: builderParams, response: { 200: builder } }),
  'DELETE /builders/:id': described('deleteBuilder', 'Delete a builder and its cache', {
    params: builderParams,
    response: { 204: nothing },
  }),
  'POST /builders/:id/prune': described('pruneBuilder', 'Empty the cache of a builder', {
    params: builderParams,
    response: { 202: builder },
  }),
  'GET /devices': described('listDevices', 'List devices', { querystring, response: { 200: z.array(device) } }),
  'POST /devices': described('createDevice', 'Register a device of the host', { body: createDeviceBody, response: { 201: device } }),
  'GET /devices/available': described('listAvailableDevices', 'List devices of the host that could be registered', {
    response: { 200: z.array(availableDevice) },
  }),
  'GET /devices/:id': described('getDevice', 'Show a device', { params: deviceParams, response: { 200: device } }),
  'DELETE /devices/:id': described('deleteDevice', 'Give a device back to the host', { params: deviceParams, response: { 204: nothing } }),
  'GET /ingresses': described('listIngresses', 'List ingresses', { querystring, response: { 200: z.array(ingress) } }),
  'POST /ingresses': described('createIngress', 'Make a way from host names to instances', {
    body: createIngressBody,
    response: { 201: ingress },
  }),
  'GET /ingresses/:id': described('getIngress', 'Show an ingress', { params: ingressParams, response: { 200: ingress } }),
  'DELETE /ingresses/:id': described('deleteIngress', 'Delete an ingress', { params: ingressParams, response: { 204: nothing } }),
}
