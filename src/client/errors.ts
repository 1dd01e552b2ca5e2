// What can go wrong between a caller and the server: an answer that says no, or no answer at all.
// Not the error table itself: that is api/errors.ts.

/** The server's answer was an error: what it said, and which request it was. */
export class ApiError extends Error {
  readonly method: string
  readonly path: string
  readonly status: number
  /** Code of the error table, or a code of a proxy in between. */
  readonly code: string
  readonly details: readonly string[]

  constructor(request: { readonly method: string; readonly path: string }, status: number, body: ErrorBody) {
    super(body.message)
    this.name = 'ApiError'
    this.method = request.method
    this.path = request.path
    this.status = status
    this.code = body.code
    this.details = body.details
  }
}

export interface ErrorBody {
  readonly code: string
  readonly message: string
  readonly details: readonly string[]
}

/** Nothing answered, or what answered was not this server. */
export class UnreachableError extends Error {
  constructor(message: string, options: { readonly cause?: unknown } = {}) {
    super(message, options)
    this.name = 'UnreachableError'
  }
}

/** Reads an error out of any body: ours, or the text of something in between. */
export function parseErrorBody(status: number, text: string): ErrorBody {
  const body = parseJson(text)
  if (typeof body === 'object' && body !== null && 'message' in body && typeof body.message === 'string') {
    const code = 'code' in body && typeof body.code === 'string' ? body.code : `http_${status}`
    const details = 'details' in body && Array.isArray(body.details) ? body.details.flatMap(detailText) : []
    return { code, message: body.message, details }
  }
  const excerpt = text.trim().slice(0, 200)
  return {
    code: `http_${status}`,
    message: excerpt === '' ? `the server answered with status ${status}` : `the server answered with status ${status}: ${excerpt}`,
    details: [],
  }
}

function detailText(detail: unknown): string[] {
  if (typeof detail !== 'object' || detail === null) return []
  return 'message' in detail && typeof detail.message === 'string' ? [detail.message] : []
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown
  } catch {
    return undefined // not JSON: the caller shows the text as it is
  }
}
