// hypeman run: makes an instance of an image and boots it.

import { Option, type Command } from 'commander'
import type { InstanceCreate, PortMapping, SnapshotCompression, VolumeMount } from '../../client/client.ts'
import { compression, keyValue, positiveNumber, publish, volume, words } from '../arguments.ts'
import { autoStandbyPolicyOf, withAutoStandbyOptions, type AutoStandbyOptions } from '../auto-standby.ts'
import { command, passesThrough } from '../command.ts'
import type { Cli } from '../context.ts'
import { environmentOf, withEnvironmentOptions, type EnvironmentOptions } from '../environment.ts'
import { guestCommand } from '../guest-command.ts'
import { nameFromImage } from '../names.ts'
import { printObject } from '../output/format.ts'
import { UsageError } from '../report.ts'
import { readsInput } from '../secret-files.ts'
import { runInstance } from '../run.ts'
import {
  healthCheckOf,
  restart,
  restartPolicyOf,
  unprefixed,
  withHealthOptions,
  withRestartOptions,
  type HealthOptions,
  type RestartOptions,
} from '../supervision.ts'
import { credentialsOf, withCredentials, type CredentialOptions } from './credentials.ts'

/** As the wire has them; its schemas are not loaded for a command line. */
const egressModes = ['all', 'http_https_only'] as const

interface Options extends CredentialOptions, EnvironmentOptions {
  readonly name?: string
  readonly volume?: readonly VolumeMount[]
  readonly publish?: readonly PortMapping[]
  readonly memory?: string
  readonly cpus?: number
  readonly overlaySize?: string
  readonly hotplugSize?: string
  readonly diskIo?: string
  readonly bandwidthDown?: string
  readonly bandwidthUp?: string
  readonly networkEgressEnabled?: boolean
  readonly networkEgressMode?: (typeof egressModes)[number]
  readonly compress?: SnapshotCompression
  readonly compressDelay?: string
  readonly hypervisor?: string
  readonly entrypoint?: readonly string[]
  readonly cmd?: readonly string[]
  readonly tag?: Readonly<Record<string, string>>
  readonly platform?: string
  readonly network?: boolean
  readonly ttl?: string
  readonly expiresAt?: string
  readonly skipGuestAgent?: boolean
  readonly restart?: ReturnType<typeof restart>
  readonly rm?: boolean
  readonly attach?: boolean
  readonly detach?: boolean
}

export function runCommand(cli: Cli): Command {
  const run = command('run', 'Make an instance of an image and boot it; print its id once it runs', [
    ['hypeman run --name web -p 8080:80 nginx:alpine', 'published on 127.0.0.1:8080'],
    ['hypeman run --rm alpine:3.20 uname -a', "shows the program's output, ends with its exit code, leaves nothing"],
    ['hypeman run -d -e MODE=test --env-file app.env --memory 512MB --cpus 1 my/app:1', "doesn't wait until it runs"],
    ['DB_PASSWORD=… hypeman run --secret-env DB_PASSWORD my/app:1', 'with a secret: sealed on disk, shown nowhere'],
    [
      'hypeman run --secret-file tls.key --secret-file ca.pem=/etc/ssl/my-ca.pem my/app:1',
      'with secret files, in /run/secrets of the guest',
    ],
    ['hypeman run --restart on-failure:5 --health-http-port 80 nginx:alpine', 'started again when it fails, or answers no more'],
    ['hypeman run -p 8080:80 --auto-standby-idle-timeout 10m nginx:alpine', 'sleeps when nobody was there for ten minutes'],
    ['hypeman run --bandwidth-down 100Mbps --bandwidth-up 20Mbps my/crawler:1', 'held to that by a network device of the host'],
    ['hypeman run --network-egress-enabled my/agent:1', "that goes out by the host's proxy alone"],
    ['hypeman run --compress zstd:3 --compress-delay 5m my/app:1', 'whose memory takes less room in standby and in snapshots'],
    ['hypeman run -v data:/var/lib/data --ttl 2h postgres:17', 'with a volume, deleted after two hours'],
    ['hypeman run -v model:/srv/model:overlay=2GB my/app:1', 'sees the volume, and writes up to 2 GB into a layer of its own'],
  ])
    .argument('<image>', 'reference of the image; pulled if the server lacks it')
    .argument('[command...]', "command for the guest instead of the image's")
    .option('--name <name>', 'name of the instance; by default one is made up from the image')
    .option(
      '-v, --volume <volume:/path[:ro|:overlay[=size]]>',
      'volume and where the guest sees it, writable, read-only, or below a layer of its own; may be repeated',
      volume,
    )
    .option('-p, --publish <[address:]host:guest[/udp]>', 'port of the host that leads into the guest; may be repeated', publish)
    .addOption(new Option('--memory <size>', "memory, such as 512MB (the server's default is 1GB)"))
    .addOption(new Option('--size <size>', 'the same as --memory').hideHelp())
    .addOption(new Option('--cpus <count>', "virtual CPUs (the server's default is 2)").argParser(positiveNumber))
    .addOption(new Option('--vcpus <count>', 'the same as --cpus').argParser(positiveNumber).hideHelp())
    .option('--overlay-size <size>', 'size of the writable disk, such as 10GB')
    .addOption(
      new Option('--hotplug-size <size>', 'memory that may be added while it runs (hypeman update size), where the hypervisor can'),
    )
    .option('--disk-io <rate>', "limit of what its disks together read and write, such as 100MB/s; 0: none, not even the server's default")
    .option('--bandwidth-down <rate>', "limit of what it receives, such as 100Mbps or 12.5MB/s; 0: none, not even the server's default")
    .option('--bandwidth-up <rate>', 'limit of what it sends; as --bandwidth-down')
    .option('--network-egress-enabled', "have it go out by the host's proxy alone, which its programs are told by http_proxy and the like")
    .addOption(
      new Option('--network-egress-mode <mode>', 'what it may not do directly: any TCP, or that to ports 80 and 443').choices(egressModes),
    )
    .option('--compress <algorithm[:level]>', 'compress its memory in standby and in snapshots: zstd[:1-19] or lz4[:0-9]', compression)
    .option('--compress-delay <duration>', 'leave its memory as it is for so long after a standby, such as 5m')
    .option('--hypervisor <name>', 'hypervisor, as hypeman capabilities lists them')
    .option('--entrypoint <word>', "another entrypoint than the image's; may be repeated, or a JSON array", words)
    .option('--cmd <word>', 'command for the guest, as the arguments after the image; may be repeated, or a JSON array', words)
    .option('-l, --tag <key=value>', 'tag of the instance; may be repeated', keyValue)
    .option('--platform <os/arch>', 'platform of a multi-platform image')
    .addOption(new Option('--network', 'with a network, as by default').hideHelp())
    .option('--no-network', 'without a network')
    .option('--ttl <duration>', 'delete it after this time, such as 30m')
    .option('--expires-at <time>', 'delete it at this time (RFC 3339)')
    .option('--skip-guest-agent', "don't wait for the guest agent; no exec, cp or stat, and health checks by http and tcp alone")
    .addOption(new Option('--restart <policy>', 'never, always, on-failure or on-failure:ATTEMPTS').argParser(restart))
    .option('--rm', "show the program's output, and delete the instance when the program has ended or on an interrupt")
    .option('-a, --attach', "show the program's output until it ends, and end with its exit code")
    .option('-d, --detach', "don't wait until it runs")
  withAutoStandbyOptions(withHealthOptions(withRestartOptions(withEnvironmentOptions(run), 'restart-'), 'health-'), 'auto-standby-')
  return withCredentials(passesThrough(run)).action(async (image: string, trailing: string[], options: Options, self: Command) => {
    const attached = options.attach === true || options.rm === true
    if (attached && options.detach === true)
      throw new UsageError('--detach does not go with --attach or --rm: those stay until the program ends')
    if (options.rm === true && options.restart !== undefined && options.restart.policy !== 'never')
      throw new UsageError('--restart does not go with --rm: that deletes the instance when its program ends')
    if (options.passwordStdin === true && readsInput(options.secretFile))
      throw new UsageError('--password-stdin does not go with --secret-file NAME=-: standard input is read once')
    const create = await instanceOf(image, guestCommand(trailing), options, self, cli)
    const session = await cli.session(self)
    const credentials = await credentialsOf(options, cli.terminal)
    const instance = await runInstance(session, {
      image: { name: image, platform: options.platform, credentials },
      create,
      until: attached ? 'ended' : options.detach === true ? 'created' : 'running',
      remove: options.rm === true,
    })
    if (attached) {
      cli.exitCode = instance.exit_code ?? 0
      return
    }
    if (options.name === undefined) session.note(`${instance.name} ${options.detach === true ? 'is on its way' : 'runs'}`)
    await printObject(session, instance, instance.id)
  })
}

async function instanceOf(image: string, trailing: readonly string[], options: Options, self: Command, cli: Cli): Promise<InstanceCreate> {
  if (trailing.length > 0 && options.cmd !== undefined) throw new UsageError('give the command with --cmd or after the image, not both')
  if (options.network === false && options.publish !== undefined) throw new UsageError('--publish needs a network: leave out --no-network')
  if (options.network === false && (options.bandwidthDown !== undefined || options.bandwidthUp !== undefined))
    throw new UsageError('--bandwidth-down and --bandwidth-up need a network: leave out --no-network')
  if (options.network === false && options.networkEgressEnabled === true)
    throw new UsageError('--network-egress-enabled needs a network: leave out --no-network')
  if (options.networkEgressMode !== undefined && options.networkEgressEnabled !== true)
    throw new UsageError('--network-egress-mode goes with --network-egress-enabled: give that as well')
  // Both spellings of one option: what the user gave, whichever it was.
  const spelled = self.opts<Readonly<Record<string, unknown>> & { readonly size?: string; readonly vcpus?: number }>()
  return {
    name: options.name ?? nameFromImage(image),
    image,
    size: options.memory ?? spelled.size,
    hotplug_size: options.hotplugSize,
    overlay_size: options.overlaySize,
    vcpus: options.cpus ?? spelled.vcpus,
    disk_io_bps: options.diskIo,
    ...(await environmentOf(options, cli.terminal)),
    tags: options.tag,
    entrypoint: options.entrypoint,
    cmd: trailing.length > 0 ? trailing : options.cmd,
    platform: options.platform,
    hypervisor: options.hypervisor as InstanceCreate['hypervisor'],
    network: {
      enabled: options.network !== false,
      ports: options.publish,
      bandwidth_download: options.bandwidthDown,
      bandwidth_upload: options.bandwidthUp,
      egress: egressOf(options),
    },
    volumes: options.volume,
    skip_guest_agent: options.skipGuestAgent,
    ttl: options.ttl,
    expires_at: options.expiresAt,
    restart_policy: restartPolicyOf(unprefixed<RestartOptions>(spelled, 'restart'), options.restart),
    snapshot_policy: snapshotPolicyOf(options),
    auto_standby: autoStandbyPolicyOf(unprefixed<AutoStandbyOptions>(spelled, 'autoStandby')),
    health_check: healthCheckOf(unprefixed<HealthOptions>(spelled, 'health')),
  }
}

function egressOf({ networkEgressEnabled: enabled, networkEgressMode: mode }: Options): NonNullable<InstanceCreate['network']>['egress'] {
  return enabled === true ? { enabled, enforcement: mode === undefined ? undefined : { mode } } : undefined
}

/** Undefined if none of the options was given. */
function snapshotPolicyOf({ compress, compressDelay }: Options): InstanceCreate['snapshot_policy'] {
  if (compress === undefined && compressDelay === undefined) return undefined
  return { compression: compress, standby_compression_delay: compressDelay }
}
