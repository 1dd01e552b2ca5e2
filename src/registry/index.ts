// The door of the registry: images pushed into this server, and pulled from it.

import { Registry, type RegistryOptions } from './service.ts'
import type { RegistryService } from './types.ts'

export type { RegistryOptions }

/** Reads what was pushed before and lets the images of unfinished conversions be made. */
export async function createRegistry(options: RegistryOptions): Promise<RegistryService> {
  const registry = new Registry(options)
  await registry.open()
  return registry
}
