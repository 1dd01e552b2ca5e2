// What is asked of each fork: one shell script that small images can run, and what its lines mean. Which values may be the same in two forks: judge.ts.

import type { Instance } from '../../client/client.ts'

/** A line of the script: the probe's name, a tab, what was found. */
export interface Finding {
  readonly probe: string
  readonly value: string
}

/** What one fork has shown. Times are milliseconds since 1970, by this machine's clock. */
export interface Observation {
  readonly name: string
  readonly instance: Pick<Instance, 'id' | 'network'>
  readonly findings: readonly Finding[]
  /** When the fork was asked for, and when it was seen for the last time. */
  readonly from: number
  readonly to: number
  /** Between these the guest's clock was read. */
  readonly asked: number
  readonly told: number
}

/** An image may bring probes of its own. Those whose name begins with `info-` are told and never count. */
export const probeDirectory = '/etc/hypeman/fork-check.d'

/**
 * Randomness comes first: what a fork gets as soon as it runs is what counts. busybox's sh, dd, od and tr are enough for it; what an image lacks is left out.
 * Programs that are there are asked as well, since each has a generator of its own, seeded by the kernel.
 */
export const script = `
hex() { od -An -v -tx1 | tr -d ' \\n'; }
say() { [ -z "$2" ] || printf '%s\\t%s\\n' "$1" "$2"; }
has() { command -v "$1" >/dev/null 2>&1; }
say urandom "$(dd if=/dev/urandom bs=32 count=1 2>/dev/null | hex)"
say random "$(dd if=/dev/random bs=32 count=1 2>/dev/null | hex)"
say uuid "$(cat /proc/sys/kernel/random/uuid)"
say clock "$(date +%s.%N)"
say boot-id "$(cat /proc/sys/kernel/random/boot_id)"
say machine-id "$(cat /etc/machine-id 2>/dev/null)"
say hostname "$(cat /proc/sys/kernel/hostname)"
say identity "$(cat /run/hypeman/generation 2>/dev/null)"
for device in /sys/class/net/*; do
  case "$device" in */lo) ;; *) say mac "$(cat "$device/address" 2>/dev/null)" ;; esac
done
has ip && ip -4 addr 2>/dev/null | sed -n 's|^ *inet \\([0-9.]*\\)/.*|\\1|p' | while read -r address; do say ip "$address"; done
for table in tcp tcp6; do
  sed 1d "/proc/net/$table" 2>/dev/null | while read -r _ local remote state _; do [ "$state" != 01 ] || say tcp "$local $remote"; done
done
for key in /etc/ssh/ssh_host_*_key.pub; do
  [ ! -r "$key" ] || say ssh-host-key "$(cut -d' ' -f1,2 <"$key")"
done
has python3 && python3 -c '
import os
print("getrandom\\t" + os.getrandom(32).hex())
import random
print("python-random\\t%r" % random.random())
import uuid
print("python-uuid\\t%s" % uuid.uuid4())
' 2>/dev/null
has node && node -e '
console.log("node-bytes\\t" + require("crypto").randomBytes(32).toString("hex"))
console.log("node-random\\t" + Math.random())
' 2>/dev/null
has perl && perl -e '
my ($bytes, $number) = ("\\0" x 32, \`uname -m\` =~ /aarch64/ ? 278 : 318);
printf "getrandom\\t%s\\n", unpack("H*", $bytes) if syscall($number, $bytes, 32, 0) == 32;
printf "perl-random\\t%.17g\\n", rand;
' 2>/dev/null
has openssl && say openssl "$(openssl rand -hex 32 2>/dev/null)"
for probe in ${probeDirectory}/*; do
  [ -f "$probe" ] && [ -x "$probe" ] || continue
  "$probe" 2>/dev/null </dev/null | while read -r line; do say "hook \${probe##*/}" "$line"; done
done
true
`

/** The lines that the script has written; others are not its own. */
export function findingsOf(output: string): readonly Finding[] {
  return output.split('\n').flatMap((line) => {
    const tab = line.indexOf('\t')
    return tab <= 0 ? [] : [{ probe: line.slice(0, tab), value: line.slice(tab + 1).trim() }]
  })
}

/** An established connection as the kernel writes it, `0F02000A:9C40 0202000A:1F90`: its other end is this guest. */
export function isLoopback(connection: string): boolean {
  const [, remote = ''] = connection.split(' ')
  const [address = ''] = remote.split(':')
  // 127.0.0.0/8, ::1, and 127.0.0.0/8 mapped into IPv6: words of the host's byte order, the low one last.
  return (
    /^[0-9A-F]{6}7F$/.test(address) ||
    address === '00000000000000000000000001000000' ||
    /^0000000000000000FFFF0000[0-9A-F]{6}7F$/.test(address)
  )
}

const identityShape = /^\{.*\}$/

/** What the guest agent has told programs of the fork that they are in. */
export function identityOf(text: string): { readonly instanceId?: string; readonly generation?: number } {
  if (!identityShape.test(text)) return {}
  const parsed = parseObject(text)
  const { instance_id: instanceId, generation } = parsed
  return {
    ...(typeof instanceId === 'string' ? { instanceId } : {}),
    ...(typeof generation === 'number' ? { generation } : {}),
  }
}

function parseObject(text: string): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null ? { ...value } : {}
  } catch {
    return {} // then it tells nothing, which is judged as not being there
  }
}
