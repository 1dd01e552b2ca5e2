// The wire's types under the names that callers use.

export type Tags = Readonly<Record<string, string>>
export type InstanceState = 'Created' | 'Initializing' | 'Running' | 'Paused' | 'Shutdown' | 'Stopped' | 'Standby' | 'Unknown'
export type SnapshotKind = 'Standby' | 'Stopped'
export type LogSource = 'app' | 'vmm' | 'hypeman'
export interface PortMapping {
  readonly guest_port: number
  readonly host_port: number
  readonly protocol?: 'tcp' | 'udp'
  readonly host_address?: string
}
export interface VolumeMount {
  readonly volume_id: string
  readonly mount_path: string
  readonly readonly?: boolean
  readonly overlay?: boolean
  readonly overlay_size?: string
}
export interface Instance {
  readonly id: string
  readonly name: string
  readonly image: string
  readonly state: InstanceState
  readonly created_at: string
  readonly state_error?: string | null
  readonly exit_code?: number | null
  readonly exit_message?: string
  readonly env?: Tags
  readonly tags?: Tags
  readonly hypervisor?: string
  readonly network?: { readonly enabled?: boolean; readonly ports?: readonly PortMapping[] }
  readonly snapshot_id?: string
}
export interface InstanceCreate {
  readonly name: string
  readonly image: string
  readonly size?: string | undefined
  readonly overlay_size?: string | undefined
  readonly vcpus?: number | undefined
  readonly env?: Tags
  readonly tags?: Tags
  readonly entrypoint?: readonly string[] | undefined
  readonly cmd?: readonly string[] | undefined
  readonly platform?: string | undefined
  readonly hypervisor?: string | undefined
  readonly network?: { readonly enabled: boolean; readonly ports?: readonly PortMapping[] }
  readonly volumes?: readonly VolumeMount[]
  readonly skip_guest_agent?: boolean
  readonly ttl?: string | undefined
  readonly expires_at?: string | undefined
}
export interface InstanceStats {
  readonly instance_id: string
  readonly instance_name: string
  readonly cpu_seconds: number
  readonly memory_rss_bytes: number
  readonly memory_vms_bytes: number
  readonly network_rx_bytes: number
  readonly network_tx_bytes: number
  readonly allocated_vcpus: number
  readonly allocated_memory_bytes: number
}
export interface PathInfo {
  readonly exists: boolean
  readonly is_dir?: boolean
  readonly is_file?: boolean
  readonly is_symlink?: boolean
  readonly link_target?: string | null
  readonly error?: string | null
  readonly mode?: number
  readonly size?: number
}
export interface WaitResult {
  readonly state: InstanceState
  readonly timed_out: boolean
  readonly state_error?: string | null
}
export type InstanceEvent =
  | {
      readonly time: string
      readonly type: 'step'
      readonly flow: string
      readonly step: string
      readonly ms: number
      readonly error?: string
    }
  | { readonly time: string; readonly type: 'state'; readonly state: string; readonly message: string }
export interface Image {
  readonly name: string
  readonly digest: string
  readonly status: 'pending' | 'pulling' | 'converting' | 'ready' | 'failed'
  readonly created_at: string
  readonly error?: string | null
  readonly size_bytes?: number | null
  readonly tags?: Tags
  readonly platform?: string
  readonly queue_position?: number | null
}
export interface PullRequest {
  readonly name: string
  readonly platform?: string | undefined
  readonly tags?: Tags
  readonly credentials?: {
    readonly username?: string | undefined
    readonly password?: string | undefined
    readonly registry_token?: string | undefined
  }
}
export interface Snapshot {
  readonly id: string
  readonly name?: string | null
  readonly kind: SnapshotKind
  readonly created_at: string
  readonly size_bytes: number
  readonly allocated_bytes?: number
  readonly source_instance_id: string
  readonly source_instance_name: string
  readonly source_hypervisor: string
  readonly tags?: Tags
}
export interface SnapshotCreate {
  readonly kind: SnapshotKind
  readonly name?: string | undefined
  readonly tags?: Tags
}
export type TargetState = 'Running' | 'Standby' | 'Stopped'
export interface RestoreRequest {
  readonly target_state?: TargetState | undefined
  readonly target_hypervisor?: string | undefined
}
export interface ForkRequest extends RestoreRequest {
  readonly name: string
}
export interface Volume {
  readonly id: string
  readonly name: string
  readonly size_gb: number
  readonly created_at: string
  readonly tags?: Tags
  readonly attachments?: readonly { readonly instance_id: string; readonly mount_path: string; readonly readonly: boolean }[]
}
export interface VolumeCreate {
  readonly name: string
  readonly size_gb: number
  readonly id?: string | undefined
  readonly tags?: Tags
}
export interface Capabilities {
  readonly server: { readonly version: string; readonly api_version: string }
  readonly host: { readonly os: string; readonly arch: string }
  readonly default_runtime: { readonly name: string; readonly available: boolean }
  readonly runtimes: readonly { readonly name: string; readonly available: boolean; readonly features: readonly string[] }[]
  readonly features: readonly string[]
  readonly images: { readonly default_platform: string; readonly platforms: readonly string[] }
  readonly network: { readonly model: string; readonly guest_to_guest: boolean }
}
