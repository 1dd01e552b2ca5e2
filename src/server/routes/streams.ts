// The WebSockets of an instance: exec and copy. What can be refused is refused as a plain HTTP answer, before the upgrade.

import type { FastifyReply, FastifyRequest } from 'fastify'
import { z } from 'zod'
import type { AgentClient } from '../../agent/contract.ts'
import { HypemanError } from '../../api/errors.ts'
import { instanceParams } from '../../api/schemas/instance-requests.ts'
import { untilGone } from '../signals.ts'
import type { UpgradeTelling } from '../request-log.ts'
import { serveCopy } from '../streams/copy.ts'
import { serveExec } from '../streams/exec.ts'
import { FrameSocket } from '../streams/frames.ts'
import { failure, lookupErrors, type App, type RouteContext } from './context.ts'

/** How long the agent of a Running instance may take before the upgrade is refused. */
const AGENT_LIMIT_MS = 10_000

const upgraded = z.null().meta({ description: 'The connection is a WebSocket from here on.' })

export function streamRoutes(app: App, { services: { instances }, stopping, telling, firstFrameMs }: RouteContext): void {
  const checkAgent = async (request: FastifyRequest<{ Params: { id: string } }>, reply: FastifyReply): Promise<void> => {
    const limit = AbortSignal.timeout(AGENT_LIMIT_MS)
    try {
      await instances.agent(request.params.id, 0, AbortSignal.any([limit, untilGone(reply, stopping)]))
    } catch (cause) {
      if (!limit.aborted) throw cause
      throw new HypemanError(
        'guest_unreachable',
        `the guest agent of ${request.params.id} did not answer within ${AGENT_LIMIT_MS / 1000} s`,
        {
          cause,
        },
      )
    }
  }
  app.route({
    method: 'GET',
    url: '/instances/:id/exec',
    config: { access: 'instance:write', stream: true },
    schema: {
      tags: ['instances'],
      operationId: 'execInInstance',
      summary: 'Run a program in the guest (WebSocket)',
      description: execDescription,
      params: instanceParams,
      response: { 101: upgraded, ...failure },
      'x-error-codes': [...lookupErrors, 'invalid_state', 'rate_limited', 'guest_unreachable'],
    },
    async preHandler(request, reply) {
      // Whether to wait for an instance that is still booting is said in the first frame, after the upgrade.
      const { state } = await instances.get(request.params.id)
      if (state !== 'Initializing') await checkAgent(request, reply)
    },
    handler: refusePlainRequest,
    async wsHandler(socket, request) {
      const { id } = instanceParams.parse(request.params)
      await served(new FrameSocket(socket, firstFrameMs), request, telling, async (frames) => {
        using used = new DisposableStack()
        const findAgent = async (waitMs: number, signal: AbortSignal): Promise<AgentClient> => {
          used.use(instances.occupy(id))
          return instances.agent(id, waitMs, signal)
        }
        await serveExec(frames, findAgent, stopping)
      })
    },
  })
  app.route({
    method: 'GET',
    url: '/instances/:id/cp',
    config: { access: 'instance:write', stream: true },
    schema: {
      tags: ['instances'],
      operationId: 'copyWithInstance',
      summary: 'Copy files into or out of the guest (WebSocket)',
      description: copyDescription,
      params: instanceParams,
      response: { 101: upgraded, ...failure },
      'x-error-codes': [...lookupErrors, 'invalid_state', 'rate_limited', 'guest_unreachable'],
    },
    preHandler: checkAgent,
    handler: refusePlainRequest,
    async wsHandler(socket, request) {
      const { id } = instanceParams.parse(request.params)
      await served(new FrameSocket(socket, firstFrameMs), request, telling, async (frames) => {
        using used = new DisposableStack()
        const findAgent = async (signal: AbortSignal): Promise<AgentClient> => {
          used.use(instances.occupy(id))
          return instances.agent(id, 0, signal)
        }
        await serveCopy(frames, findAgent, stopping)
      })
    },
  })
}

async function refusePlainRequest(): Promise<never> {
  throw new HypemanError('invalid_request', 'this operation is a WebSocket: send the request with Upgrade: websocket')
}

/** Upgraded connections are logged when they have ended, like other requests. */
async function served(
  frames: FrameSocket,
  request: FastifyRequest,
  telling: UpgradeTelling,
  serve: (frames: FrameSocket) => Promise<void>,
): Promise<void> {
  const started = performance.now()
  telling.upgraded(request)
  await serve(frames)
  telling.ended(request, performance.now() - started)
}

const execDescription = `The client's first frame is text: \`{"command":["ls","-l"],"tty":false,"env":{},"cwd":"","timeout":0,"wait_for_agent":0,"rows":24,"cols":80}\`;
every field may be left out (no command: \`/bin/sh\`). Then binary frames of the client are input, those of the server are output (stdout and stderr as they come).
A text frame \`{"resize":{"rows":24,"cols":80}}\` resizes the terminal; any other text frame is input. A text frame may have 16 MiB, a binary one any size. With \`"stdin_eof":true\` in the first frame, a text frame \`{"eof":true}\` ends the input.
The server's last frame is text, \`{"exitCode":0}\`: 124 after \`timeout\` seconds, 127 with an output \`Error: …\` if the program could not be started, 255 if its end could not be seen.
A client that closes the connection hangs up: the program gets SIGHUP, then SIGKILL.`

const copyDescription = `The client's first frame is text: \`{"direction":"to","guest_path":"/a/b","is_dir":false,"mode":420,"uid":0,"gid":0}\` or
\`{"direction":"from","guest_path":"/a/b","follow_links":false}\`. Into the guest, one connection is one file or directory: binary frames of data, then \`{"type":"end"}\`, answered by
\`{"type":"result","success":true,"bytes_written":5}\` or \`{"type":"result","success":false,"error":"…"}\`. Out of the guest: for each file, directory and link a text frame
\`{"type":"header","path":"b/c","mode":420,"is_dir":false,"size":5,"mtime":0,"uid":0,"gid":0}\` (links: \`is_symlink\`, \`link_target\`), its data as binary frames, then \`{"type":"end","final":false}\`; the last has \`final\` true.
\`mode\` has the permissions alone, and \`mtime\` is 0 for files from before 1970.
Links that lead out of what is copied are left out. Failures are \`{"type":"error","message":"…","path":"…"}\`.`
