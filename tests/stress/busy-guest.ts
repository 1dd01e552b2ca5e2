// A guest that never rests and can tell whether it is whole: it writes random files that are named by their digests, in memory and on disk, and counts.

import type { TestServer } from '../support/server.ts'
import { runIn, shell } from '../support/machine.ts'

/** What it does, until its machine is gone. A file has its name only when it is whole; the last sixteen are kept. */
const busy = [
  'mkdir -p /run/files /root/files',
  `(i=0; while :; do i=$((i+1)); head -c 65536 /dev/urandom > /run/next; n=$i-$(sha256sum < /run/next | cut -c1-64);
    cp /run/next /root/next; mv /root/next /root/files/$n; mv /run/next /run/files/$n; rm -f /run/files/$((i-16))-* /root/files/$((i-16))-*;
    echo $i >> /root/log; echo $i > /run/count; mv /run/count /run/counter; done) </dev/null >/dev/null 2>&1 &`,
  'until [ -s /run/counter ]; do sleep 0.1; done',
].join('\n')

/** Prints a line for each thing that is wrong. What is on disk is read from there. */
const check = `
  look() { for f in $1/*; do n=\${f##*/}; s=$(sha256sum 2>/dev/null < $f | cut -c1-64); [ ! -e $f ] || [ "\${n#*-}" = "$s" ] || echo "$f has the digest $s"; done; }
  c=$(cat /run/counter); l=$(tail -n 1 /root/log)
  [ "$l" -ge "$c" ] && [ "$l" -le $((c+4)) ] || echo "the log on disk ends with $l, the counter is $c"
  [ "$c" -ge "$0" ] || echo "the counter is $c, the source had $0 before"
  look /run/files; sync; echo 3 > /proc/sys/vm/drop_caches; look /root/files
  i=0; until [ "$(cat /run/counter)" -gt "$c" ]; do i=$((i+1)); [ $i -lt 300 ] || { echo "it does not count any more"; break; }; sleep 0.1; done
  dmesg | grep -E '(^|[^A-Z])BUG|Oops|Kernel panic|Call Trace|EXT4-fs (error|warning)|I/O error'
  true`

export async function makeBusy(server: TestServer, id: string): Promise<void> {
  await shell(server, id, busy)
}

export async function counterOf(server: TestServer, id: string): Promise<number> {
  return Number(await shell(server, id, 'cat /run/counter'))
}

/** What is wrong with a fork of a busy guest whose counter was at least `least`; empty if nothing is. */
export async function faultsOf(server: TestServer, id: string, least: number): Promise<string> {
  const { output, exitCode } = await runIn(server, id, `sh -c '${check.replaceAll("'", `'\\''`)}' ${least}`)
  return exitCode === 0 ? output : `the check ended with ${exitCode}: ${output}`
}
