// What images, and credentials for registries, look like on the wire. Everything else comes out of its service as the wire has it.

import type { ImageEvent } from '../api/events.ts'
import type { CredentialsView, ImageView } from '../api/schemas/image.ts'
import type { Image, ImageProgress, RegistryCredentials } from '../images/types.ts'

export function imageView(image: Image): ImageView {
  const { config } = image
  return {
    name: image.name,
    digest: image.digest,
    status: image.status,
    created_at: image.createdAt,
    platform: image.platform,
    ...(image.queuePosition === undefined ? {} : { queue_position: image.queuePosition }),
    ...(image.error === undefined ? {} : { error: image.error }),
    ...(image.sizeBytes === undefined ? {} : { size_bytes: image.sizeBytes }),
    ...(config === undefined || config.entrypoint.length === 0 ? {} : { entrypoint: [...config.entrypoint] }),
    ...(config === undefined || config.cmd.length === 0 ? {} : { cmd: [...config.cmd] }),
    ...(config === undefined || Object.keys(config.env).length === 0 ? {} : { env: { ...config.env } }),
    ...(config === undefined || config.workingDir === '' ? {} : { working_dir: config.workingDir }),
    ...(Object.keys(image.tags).length === 0 ? {} : { tags: { ...image.tags } }),
  }
}

export function imageEventView(progress: ImageProgress): ImageEvent {
  return {
    name: progress.name,
    status: progress.status,
    message: progress.message,
    ...(progress.doneBytes === undefined ? {} : { done_bytes: progress.doneBytes }),
    ...(progress.totalBytes === undefined ? {} : { total_bytes: progress.totalBytes }),
  }
}

/** Empty credentials mean those that the server has itself. */
export function credentialsOf(given: CredentialsView | undefined): RegistryCredentials | undefined {
  const { username, password, registry_token: registryToken } = given ?? {}
  if ([username, password, registryToken].every((part) => part === undefined || part === '')) return undefined
  return { username, password, registryToken }
}
