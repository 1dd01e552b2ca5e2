// Every error that a caller can see: its code, HTTP status and what to do next. One row per code.
// Not for translating errors to HTTP (server/errors.ts) nor for errors that only the log sees.

/** `status` is the HTTP status; `hint` is one sentence that tells the caller what to do next; `retry` says whether clients may retry by themselves. */
export interface ErrorRow {
  readonly status: number
  /** What operations answer with to which the same is no fault of the request, but of the state that things are in. */
  readonly stateStatus?: 409
  readonly hint: string
  readonly retry?: true
}

export const catalogue = {
  // 400: the request itself is wrong
  invalid_request: { status: 400, hint: 'Correct the named field and send the request again.' },
  invalid_name: {
    status: 400,
    hint: 'Use lower-case letters, digits and dashes (no dash first or last), at most 63 characters; for images, a reference such as alpine:3.20.',
  },
  invalid_size: { status: 400, hint: 'Give a size such as 512MB or 2GB.' },
  invalid_overlay_size: { status: 400, hint: 'Give a size such as 10GB.' },
  invalid_hotplug_size: { status: 400, hint: 'Give a size such as 1GB, or leave the field out.' },
  invalid_disk_io_bps: { status: 400, hint: 'Give a rate such as 100MB/s, of at least 1MB/s.' },
  invalid_bandwidth_download: { status: 400, hint: 'Give a bandwidth such as 1Gbps or 125MB/s.' },
  invalid_bandwidth_upload: { status: 400, hint: 'Give a bandwidth such as 1Gbps or 125MB/s.' },
  invalid_ttl: { status: 400, hint: 'Give a duration such as 30m or 24h.' },
  invalid_expires_at: { status: 400, hint: 'Give an RFC 3339 time in the future.' },
  invalid_timeout: { status: 400, hint: 'Give a positive duration such as 30s; the longest is 5m.' },
  invalid_restart_policy: { status: 400, hint: 'Give durations such as 5s, and max_attempts of 0 or more.' },
  invalid_health_check: { status: 400, hint: 'Describe one check: http or tcp with a port, or exec with a command.' },
  invalid_target: { status: 400, hint: 'Give a reference with a tag in the other registry, such as registry.example.com/team/app:1.' },
  invalid_auto_standby: { status: 400, hint: 'Give an idle_timeout such as 10m, networks such as 10.0.0.0/8, and ports.' },
  invalid_snapshot_policy: { status: 400, hint: 'Give zstd with a level of 1 to 19 or lz4 with one of 0 to 9, and a delay such as 5m.' },
  invalid_snapshot_compression: { status: 400, hint: 'Give zstd with a level of 1 to 19, or lz4 with one of 0 to 9.' },
  invalid_compression_delay: { status: 400, hint: 'Give a duration such as 30s or 5m.' },
  invalid_platform: { status: 400, hint: 'Use the platform of this host, as GET /capabilities lists it.' },
  invalid_field: { status: 400, hint: 'Correct the named field and send the request again.' },
  missing_field: { status: 400, hint: 'Add the named field and send the request again.' },
  image_not_ready: { status: 400, stateStatus: 409, hint: 'Wait until GET /images/{name} says ready, then try again.' },
  archive_too_large: { status: 400, hint: 'Create the volume with a larger size_gb.' },
  invalid_archive: { status: 400, hint: 'Send an intact archive in one of the documented formats.' },
  // 401, 403
  unauthorized: { status: 401, hint: 'Send Authorization: Bearer <token>; hypeman token create makes one.' },
  forbidden: { status: 403, hint: 'Use a token that carries the named scope, or of the subject that may do this.' },
  // 404
  not_found: { status: 404, hint: 'List what there is and check the id or name.' },
  route_not_found: { status: 404, hint: 'Check method and path against /spec.json.' },
  log_not_found: { status: 404, hint: 'Start the instance first: it has not written this log yet.' },
  platform_not_available: { status: 404, hint: 'Choose an image that is published for this platform.' },
  // 409
  ambiguous: { status: 409, hint: 'Give more characters of the id, or the whole id.' },
  invalid_state: { status: 409, hint: 'Bring the instance into a state that allows this and try again.' },
  instance_expired: { status: 409, hint: 'Its time is over and it is being deleted: create another instance.' },
  instance_in_standby: { status: 409, hint: 'Restore the instance first (POST /instances/{id}/restore).' },
  name_conflict: { status: 409, hint: 'Choose another name, or delete what holds it.' },
  already_exists: { status: 409, hint: 'Choose another name, or delete what holds it.' },
  conflict: { status: 409, hint: 'Wait for the other operation to end, or undo what stands in the way, and try again.' },
  credential_conflict: {
    status: 409,
    hint: 'Wait for the push that is under way with other credentials to end, then push again.',
  },
  busy: { status: 409, hint: 'Another operation on the same thing is under way; try again when it has ended.' },
  incompatible_version: {
    status: 409,
    hint: 'Start from the disks alone with target_state Stopped, or use the version that wrote the snapshot.',
  },
  corrupt_snapshot: {
    status: 409,
    hint: 'hypeman snapshot verify names every damaged file: use another snapshot, or put the files back from a copy.',
  },
  insufficient_resources: { status: 409, hint: 'Stop or delete instances, or ask for less.' },
  port_in_use: { status: 409, hint: 'Choose another host_port, or 0 for a free one.' },
  // 408, 413, 429
  request_timeout: { status: 408, hint: 'Send the whole request at once, and again.', retry: true },
  payload_too_large: { status: 413, hint: 'Send less at once.' },
  rate_limited: { status: 429, hint: 'Wait and try again.', retry: true },
  // 500 and above
  internal_error: { status: 500, hint: 'This is a fault of the server: its log has the details under the request id.' },
  not_supported: { status: 501, hint: 'Use a hypervisor or a configuration that can do this; GET /capabilities lists what each can.' },
  registry_unavailable: {
    status: 503,
    hint: 'Check that the registry is reachable from the server and that the credentials are right.',
    retry: true,
  },
  guest_unreachable: {
    status: 503,
    hint: "The guest agent does not answer: see the instance's logs (source=vmm), then stop and start it.",
  },
  storage_full: { status: 503, hint: "Free space on the data directory's filesystem and try again." },
  storage_unsuitable: {
    status: 503,
    hint: 'Put the data directory on a filesystem that keeps sparse files and hard links (ext4, XFS, btrfs).',
  },
  host_unavailable: { status: 503, hint: 'Run hypeman doctor on the host: it names what is missing.' },
  canceled: { status: 503, hint: 'The server is stopping; try again when it is back.', retry: true },
  too_many_connections: { status: 503, hint: 'Close connections that are not needed, and try again.', retry: true },
} as const satisfies Record<string, ErrorRow>

export type ErrorCode = keyof typeof catalogue

/** One part of a composite error, on the wire as `details[]`. */
export interface ErrorDetail {
  readonly code?: string
  readonly message: string
}

interface ErrorOptionsOfOurs {
  readonly cause?: unknown
  readonly details?: readonly ErrorDetail[]
  /** Answer with the row's `stateStatus`. */
  readonly ofState?: boolean
}

/** An error with a code of the catalogue. `message` says what failed, on which id, and what to do. */
export class HypemanError extends Error {
  readonly code: ErrorCode
  readonly status: number
  readonly details: readonly ErrorDetail[]

  constructor(code: ErrorCode, message: string, options: ErrorOptionsOfOurs = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'HypemanError'
    this.code = code
    const row: ErrorRow = catalogue[code]
    this.status = options.ofState === true ? (row.stateStatus ?? row.status) : row.status
    this.details = options.details ?? []
  }
}

/** True for a `HypemanError`, of that code if one is given. */
export function isHypemanError(error: unknown, code?: ErrorCode): error is HypemanError {
  return error instanceof HypemanError && (code === undefined || error.code === code)
}
