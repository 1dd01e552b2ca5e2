// The reference of the API for browsers: Swagger UI out of its package, over our own description. Nothing on these pages comes from elsewhere.

import type { FastifySwaggerUiOptions } from '@fastify/swagger-ui'

/** Only what this server sends itself: a page that can hold a token must not talk to anybody else. */
const contentSecurityPolicy = {
  'default-src': "'none'",
  'script-src': "'self'",
  'style-src': "'self'",
  'img-src': ["'self'", 'data:'],
  'connect-src': "'self'",
  'base-uri': "'none'",
  'form-action': "'none'",
  'frame-ancestors': "'self'",
}

/** Needs no token, like the description itself; what is tried out on the pages does. */
export const referencePages = {
  routePrefix: '/docs',
  staticCSP: contentSecurityPolicy,
  theme: { title: 'hypeman API' },
  uiConfig: { layout: 'BaseLayout', docExpansion: 'list', displayOperationId: true, defaultModelsExpandDepth: 0 },
} satisfies FastifySwaggerUiOptions
