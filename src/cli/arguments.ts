// Values that users type on the command line, turned into what the wire wants. A wrong one is a usage error that shows the right form.
// Sizes and durations are the server's to judge: they go through as they are.

import { InvalidArgumentError } from 'commander'
import { parseCompression } from '../api/compression-text.ts'
import { parseDuration } from '../api/units.ts'
import type { PortMapping, SnapshotCompression, VolumeMount } from '../client/client.ts'

const DAY_MS = 86_400_000

/** `KEY=VALUE`, added to those before it. For options that may be repeated. */
export function keyValue(text: string, before: Readonly<Record<string, string>> = {}): Record<string, string> {
  const equals = text.indexOf('=')
  if (equals <= 0) throw new InvalidArgumentError('Give KEY=VALUE.')
  return { ...before, [text.slice(0, equals)]: text.slice(equals + 1) }
}

/** Appends to the values before. For options that may be repeated. */
export function repeated(text: string, before: readonly string[] = []): string[] {
  return [...before, text]
}

/** One argument of an entrypoint or command; a JSON array gives several at once. */
export function words(text: string, before: readonly string[] = []): string[] {
  if (!text.startsWith('[')) return [...before, text]
  let list: unknown
  try {
    list = JSON.parse(text)
  } catch {
    throw new InvalidArgumentError('Give one argument, or a JSON array of strings.')
  }
  if (!Array.isArray(list) || !list.every((item) => typeof item === 'string'))
    throw new InvalidArgumentError('Give one argument, or a JSON array of strings.')
  return [...before, ...list]
}

/** `zstd`, `lz4`, `zstd:19`: which levels there are is the server's to say. `none` goes before what an instance's policy says. */
export function compression(text: string): SnapshotCompression {
  const parsed = parseCompression(text)
  if (parsed === undefined) throw new InvalidArgumentError('Give zstd or lz4, with a level if you like: zstd:19; or none.')
  return parsed
}

export function wholeNumber(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('Give a whole number.')
  return Number(text)
}

export function positiveNumber(text: string): number {
  const value = wholeNumber(text)
  if (value === 0) throw new InvalidArgumentError('Give a whole number from 1.')
  return value
}

/** Milliseconds of a duration as the wire writes them: `90s`, `1h30m`. */
export function durationMs(text: string): number {
  const ms = parseDuration(text)
  if (ms === undefined || ms < 0) throw new InvalidArgumentError('Give a duration such as 90s, 5m or 1h30m.')
  return ms
}

/** The same for what lasts long: whole days as well, `30d`. */
export function longDurationMs(text: string): number {
  const [, days] = /^(\d+)d$/.exec(text) ?? []
  if (days !== undefined && Number.isSafeInteger(Number(days) * DAY_MS)) return Number(days) * DAY_MS
  const ms = parseDuration(text)
  if (ms === undefined || ms < 0) throw new InvalidArgumentError('Give a duration such as 30d, 24h or 1h30m.')
  return ms
}

/** Whole seconds, as a number or as a duration. */
export function seconds(text: string): number {
  return /^\d+$/.test(text) ? Number(text) : Math.ceil(durationMs(text) / 1000)
}

/** Of the layer over a volume, where no size is given: as large as a system disk is by default. It takes space as it is used. */
const LAYER_SIZE = '10GB'

/** `ID:/PATH[:ro|rw|overlay[=SIZE]]`: a volume and where the guest sees it. A layer lies over a volume that is only read, so that `ro` may stand before it. */
export function volume(text: string, before: readonly VolumeMount[] = []): VolumeMount[] {
  const [id, path, ...modes] = text.split(':')
  if (id === undefined || id === '' || path === undefined || !path.startsWith('/'))
    throw new InvalidArgumentError('Give VOLUME:/PATH, VOLUME:/PATH:ro or VOLUME:/PATH:overlay=SIZE.')
  const mount: { volume_id: string; mount_path: string; readonly?: true; overlay?: true; overlay_size?: string } = {
    volume_id: id,
    mount_path: path,
  }
  for (const mode of modes) {
    const [, size] = /^overlay(?:=(.+))?$/.exec(mode) ?? []
    if (mode === 'ro') mount.readonly = true
    else if (mode === 'overlay' || size !== undefined) Object.assign(mount, layer(size))
    else if (mode !== 'rw') throw new InvalidArgumentError(`'${mode}' is not a mode of a volume: use ro, rw, overlay or overlay=SIZE.`)
  }
  if (mount.readonly === true && modes.includes('rw'))
    throw new InvalidArgumentError('A volume that is written to is neither read-only nor below an overlay: leave out rw, or the rest.')
  return [...before, mount]
}

/** What is written over a volume that is only read, in the words of the wire. */
export function layer(size: string = LAYER_SIZE): { readonly readonly: true; readonly overlay: true; readonly overlay_size: string } {
  return { readonly: true, overlay: true, overlay_size: size }
}

/** `[ADDRESS:]HOST:GUEST[/tcp|/udp]`, `:GUEST` or `GUEST` for any free host port; an IPv6 address stands in brackets. */
export function publish(text: string, before: readonly PortMapping[] = []): PortMapping[] {
  const parts = /^(?:(?:(?<address>\[[0-9a-f:.]+\]|[^:[\]/]+):)?(?<host>\d*):)?(?<guest>\d+)(?:\/(?<protocol>tcp|udp))?$/i.exec(
    text,
  )?.groups
  if (parts === undefined) throw new InvalidArgumentError('Give HOST:GUEST, ADDRESS:HOST:GUEST or GUEST, with /udp for UDP.')
  const guest = portNumber(parts['guest'] ?? '', 1)
  const host = portNumber(parts['host'] === undefined || parts['host'] === '' ? '0' : parts['host'], 0)
  const address = parts['address']?.replace(/^\[|\]$/g, '')
  const protocol = parts['protocol']?.toLowerCase() === 'udp' ? 'udp' : 'tcp'
  return [...before, { guest_port: guest, host_port: host, protocol, ...(address === undefined ? {} : { host_address: address }) }]
}

export function portNumber(text: string, lowest: number): number {
  const port = Number(text)
  if (!Number.isInteger(port) || port < lowest || port > 65_535)
    throw new InvalidArgumentError(`'${text}' is not a port: ports go from 1 to 65535.`)
  return port
}

/** `KEY=VALUE`, or `KEY` alone to take the value from our own environment. */
export function environmentEntry(text: string, own: Readonly<Record<string, string | undefined>>): Record<string, string> {
  if (text.includes('=')) return keyValue(text)
  const value = own[text]
  return value === undefined ? {} : { [text]: value }
}

/**
 * Lines of an env file: `KEY=VALUE` or `KEY`; blank lines and lines that start with `#` don't count. Quotes are part of the value, as in docker's. A `KEY` without a value here
 * is left out, or is an error where all are `needed`.
 */
export function parseEnvFile(
  file: string,
  text: string,
  own: Readonly<Record<string, string | undefined>>,
  needed = false,
): Record<string, string> {
  const variables: Record<string, string> = {}
  for (const [index, raw] of text.split('\n').entries()) {
    const line = raw.replace(/\r$/, '').replace(/^[ \t]+/, '')
    if (line === '' || line.startsWith('#')) continue
    const name = line.split('=', 1)[0] ?? ''
    if (name === '' || /\s/.test(name)) throw new InvalidArgumentError(`${file}, line ${index + 1}: it is neither KEY=VALUE nor KEY.`)
    if (needed && name === line && own[name] === undefined)
      throw new InvalidArgumentError(`${file}, line ${index + 1}: there is no variable ${name} here.`)
    Object.assign(variables, environmentEntry(line, own))
  }
  return variables
}
