// The guest agent as an object: one method a request of guest/protocol.md, over one multiplexed channel.

import { z } from 'zod'
import type { AgentClient, AgentHealth, ConnectAgent } from './contract.ts'
import { openSession } from './channel.ts'
import { startExec } from './exec.ts'
import { bootGuest, freezePrograms, renewIdentity, thawPrograms } from './renewal.ts'
import { send, sendForJson } from './request.ts'
import type { YamuxSession } from './yamux.ts'

const health = z
  .object({
    version: z.string(),
    protocol: z.literal(1),
    boot_id: z.string(),
    generation: z.int(),
    uptime_ms: z.number(),
    workload: z.object({
      state: z.enum(['waiting', 'running', 'exited']),
      pid: z.int().optional(),
      exit_code: z.int().optional(),
      signal: z.string().optional(),
      oom: z.boolean().optional(),
      message: z.string().optional(),
    }),
  })
  .transform(({ workload, ...body }): AgentHealth => ({
    version: body.version,
    protocol: body.protocol,
    bootId: body.boot_id,
    generation: body.generation,
    uptimeMs: body.uptime_ms,
    workload: {
      state: workload.state,
      pid: workload.pid,
      exitCode: workload.exit_code,
      signal: workload.signal,
      oom: workload.oom,
      message: workload.message,
    },
  }))

const pathInfo = z
  .object({
    exists: z.boolean(),
    is_dir: z.boolean(),
    is_file: z.boolean(),
    is_symlink: z.boolean(),
    link_target: z.string().optional(),
    mode: z.int(),
    size: z.int(),
    error: z.string().optional(),
  })
  .transform((body) => ({
    exists: body.exists,
    isDir: body.is_dir,
    isFile: body.is_file,
    isSymlink: body.is_symlink,
    linkTarget: body.link_target,
    mode: body.mode,
    size: body.size,
    error: body.error,
  }))

const stats = z
  .object({
    memory_total_bytes: z.number(),
    memory_available_bytes: z.number(),
    load1: z.number(),
    cpu_seconds: z.number(),
    processes: z.int(),
    disk_total_bytes: z.number(),
    disk_used_bytes: z.number(),
    network_received_bytes: z.number(),
    network_sent_bytes: z.number(),
  })
  .transform((body) => ({
    memoryTotalBytes: body.memory_total_bytes,
    memoryAvailableBytes: body.memory_available_bytes,
    load1: body.load1,
    cpuSeconds: body.cpu_seconds,
    processes: body.processes,
    diskTotalBytes: body.disk_total_bytes,
    diskUsedBytes: body.disk_used_bytes,
    networkReceivedBytes: body.network_received_bytes,
    networkSentBytes: body.network_sent_bytes,
  }))

const probed = z.object({ error: z.string().optional(), status: z.int().optional() })

const written = z.object({ bytes_written: z.int() }).transform((body) => ({ bytesWritten: body.bytes_written }))

/** Speaks the preamble and asks nothing yet. */
export const connectAgent: ConnectAgent = async (channel, signal, ahead = false): Promise<AgentClient> => {
  signal.throwIfAborted()
  const session = openSession(channel)
  if (!ahead) await begun(session, signal)
  return clientOf(session)
}

async function begun(session: YamuxSession, signal: AbortSignal): Promise<void> {
  const onAbort = (): void => session.end(signal.reason as Error)
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    await session.begun
  } catch (error) {
    signal.throwIfAborted()
    throw error
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}

function clientOf(session: YamuxSession): AgentClient {
  return {
    closed: session.ended,
    health: (signal) => sendForJson(session, health, { method: 'GET', path: '/v1/health', signal }),
    boot: (identity, volumes, workload, signal) => bootGuest(session, { identity, volumes, workload }, signal),
    identity: (reason, identity, generation, signal) => renewIdentity(session, { reason, identity, generation }, signal),
    freeze: (signal) => freezePrograms(session, signal),
    thaw: (signal) => thawPrograms(session, signal),
    exec: (request, signal) => startExec(session, request, signal),
    stat: (path, followLinks, signal) =>
      sendForJson(session, pathInfo, { method: 'GET', path: `/v1/stat?${query({ path, follow_links: followLinks })}`, signal }),
    writeFile: (path, options, content, signal) =>
      sendForJson(session, written, {
        method: 'PUT',
        path: `/v1/file?${query({ path, mode: options.mode.toString(8), uid: options.uid, gid: options.gid })}`,
        content,
        signal,
      }),
    makeDirectory: (path, options, signal) =>
      done(
        session,
        'PUT',
        `/v1/directory?${query({ path, mode: options.mode.toString(8), uid: options.uid, gid: options.gid })}`,
        undefined,
        signal,
      ),
    readArchive: (path, followLinks, signal) =>
      send(session, { method: 'GET', path: `/v1/archive?${query({ path, follow_links: followLinks })}`, signal }),
    stats: (signal) => sendForJson(session, stats, { method: 'GET', path: '/v1/stats', signal }),
    probe: ({ timeoutMs, ...target }, signal) =>
      sendForJson(session, probed, { method: 'POST', path: '/v1/probe', json: { ...target, timeout_ms: timeoutMs }, signal }),
    sync: (signal) => done(session, 'POST', '/v1/sync', {}, signal),
    grow: ({ vcpus, memoryBytes, diskBytes }, timeoutMs, signal) =>
      done(session, 'POST', '/v1/grow', { cpus: vcpus, memory_bytes: memoryBytes, disk_bytes: diskBytes, timeout_ms: timeoutMs }, signal),
    shutdown: (graceMs, stopSignal, signal) =>
      done(session, 'POST', '/v1/shutdown', { grace_ms: graceMs, ...(stopSignal === undefined ? {} : { signal: stopSignal }) }, signal),
    close: () => session.end(new Error('the connection was closed')),
  }
}

async function done(
  session: YamuxSession,
  method: 'POST' | 'PUT',
  path: string,
  json: unknown,
  signal: AbortSignal | undefined,
): Promise<void> {
  await sendForJson(session, z.unknown(), { method, path, json, signal })
}

function query(parameters: Readonly<Record<string, string | number | boolean | undefined>>): string {
  const search = new URLSearchParams()
  for (const [name, value] of Object.entries(parameters)) if (value !== undefined) search.set(name, String(value))
  return search.toString()
}
