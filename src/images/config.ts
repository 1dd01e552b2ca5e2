// What an image's config says about running it, and for which platform it is. Pure.

import { z } from 'zod'
import { HypemanError } from '../api/errors.ts'
import { parseJson } from './manifest.ts'
import type { ImageConfig } from './types.ts'

// Builders leave fields out or write null; both mean nothing.
const words = z.array(z.string()).nullish()
const configFile = z.object({
  os: z.string().default('linux'),
  architecture: z.string().default(''),
  config: z
    .object({
      Entrypoint: words,
      Cmd: words,
      Env: words,
      WorkingDir: z.string().nullish(),
      User: z.string().nullish(),
      StopSignal: z.string().nullish(),
      Labels: z.record(z.string(), z.string()).nullish(),
      ExposedPorts: z.record(z.string(), z.unknown()).nullish(),
    })
    .nullish(),
})

/** `invalid_archive` for what is no config, `platform_not_available` for a config of another platform than `os/architecture`. */
export function parseConfig(bytes: Uint8Array, platform: string, image: string): ImageConfig {
  const parsed = configFile.safeParse(parseJson(bytes, `the config of ${image}`))
  if (!parsed.success) throw new HypemanError('invalid_archive', `the config of ${image} is malformed: ${z.prettifyError(parsed.error)}`)
  const { os, architecture, config } = parsed.data
  if (`${os}/${architecture}` !== platform.split('/').slice(0, 2).join('/'))
    throw new HypemanError(
      'platform_not_available',
      `the image ${image} is for ${os}/${architecture || 'an unnamed architecture'}, not for ${platform}`,
    )
  return {
    entrypoint: config?.Entrypoint ?? [],
    cmd: config?.Cmd ?? [],
    env: environmentOf(config?.Env ?? []),
    workingDir: config?.WorkingDir ?? '',
    user: config?.User ?? '',
    stopSignal: config?.StopSignal ?? '',
    labels: config?.Labels ?? {},
    exposedPorts: Object.keys(config?.ExposedPorts ?? {}),
  }
}

// As in a process's environment: the last one of a name counts, and what has no name is dropped.
function environmentOf(lines: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    lines.flatMap((line) => {
      const equals = line.indexOf('=')
      return equals < 1 ? [] : [[line.slice(0, equals), line.slice(equals + 1)]]
    }),
  )
}
