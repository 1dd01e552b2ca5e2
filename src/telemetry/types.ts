// What the server tells of its requests, and whom. HTTP itself is the server's; who counts, traces or records is behind these interfaces.

/** A request that was answered, or whose caller left before. */
export interface AnsweredRequest {
  readonly id: string
  readonly method: string
  /** The operation's id in the description of the API, or method and pattern of its route; undefined if there is no such route. */
  readonly operation: string | undefined
  readonly status: number
  /** Code of the error that was answered. */
  readonly code: string | undefined
  readonly ms: number
  /** Whom the token speaks for; undefined without a good one. */
  readonly subject: string | undefined
  readonly remoteAddress: string
  /** It may have changed something. */
  readonly changes: boolean
  /** What the path names: an id, a name or a prefix, as the caller wrote it. */
  readonly target: string | undefined
  /** The thing that the answer is about. */
  readonly answered: { readonly id?: string; readonly name?: string }
}

export interface RequestListener {
  /** The answer is given, or the connection upgraded. */
  answered?(request: AnsweredRequest): void
  /** All is over: for an upgraded connection, when that has ended. */
  ended?(request: AnsweredRequest): void
}

/** A request as it begins. */
export interface NewRequest {
  readonly id: string
  readonly method: string
  readonly operation: string | undefined
  /** The pattern, without what a caller puts into it. */
  readonly route: string | undefined
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
}

/** Follows requests into what they set off. */
export interface RequestTracer {
  begin(request: NewRequest): RequestTrace
}

export interface RequestTrace {
  /** Calls `next` so that whatever begins in it, and in what that waits for, belongs to the request. */
  run(next: () => void): void
  end(request: AnsweredRequest): void
}
