// What a test run left behind on the machine: processes, mounts, loop devices, network devices, rules of the firewall, files. Everything of the run is known by its
// temporary directory: tests have it as TMPDIR and in their environment, which what they start inherits.
// Other runs on the same machine are never touched.

import { spawnSync } from 'node:child_process'
import { readFileSync, readdirSync, readlinkSync, rmSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

export interface Leftover {
  readonly kind: 'process' | 'mount' | 'loop device' | 'network device' | 'rule' | 'file'
  /** For people: what it is and where. */
  readonly what: string
  readonly pid?: number
  /** Name of a network device. */
  readonly device?: string
}

/** Lists what the run left. Processes that are just ending get until `deadline` to be gone. */
export async function findLeftovers(run: string, deadline: AbortSignal): Promise<Leftover[]> {
  let found = leftoversNow(run)
  while (found.some((one) => one.kind === 'process') && !deadline.aborted) {
    await delay(50)
    found = leftoversNow(run)
  }
  return found
}

/** Ends the processes, and removes the directory unless something is mounted below it. */
export async function clearLeftovers(run: string, leftovers: readonly Leftover[]): Promise<void> {
  for (const { pid } of leftovers) if (pid !== undefined) orGone(() => process.kill(pid, 'SIGKILL'))
  for (const { device } of leftovers) if (device !== undefined) spawnSync('ip', ['link', 'delete', device])
  if (leftovers.some((one) => one.kind === 'mount')) return
  await findLeftovers(run, AbortSignal.timeout(5_000))
  rmSync(run, { recursive: true, force: true })
}

function leftoversNow(run: string): Leftover[] {
  return [...processesOf(run), ...mountsBelow(run), ...loopDevicesOf(run), ...networkDevicesOf(run), ...rulesOf(run), ...filesOf(run)]
}

function processesOf(run: string): Leftover[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => belongsTo(pid, run))
    .map((pid) => ({ kind: 'process', pid: Number(pid), what: `process ${pid}: ${commandLine(pid)}` }))
}

// A zombie has no environment, directory or command line any more, so it is never counted.
function belongsTo(pid: string, run: string): boolean {
  const environment = orGone(() => readFileSync(`/proc/${pid}/environ`, 'latin1')) ?? ''
  const directory = orGone(() => readlinkSync(`/proc/${pid}/cwd`)) ?? ''
  return `\0${environment}\0`.includes(`\0HYPEMAN_TEST_RUN=${run}\0`) || isBelow(directory, run) || commandLine(pid).includes(`${run}/`)
}

function commandLine(pid: string): string {
  return (orGone(() => readFileSync(`/proc/${pid}/cmdline`, 'latin1')) ?? '').replaceAll('\0', ' ').trim()
}

// The fifth field is the mount point; spaces in it are written \040 (proc_pid_mountinfo(5)), and our directories have none.
function mountsBelow(run: string): Leftover[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((point) => isBelow(point, run))
    .map((point) => ({ kind: 'mount', what: `mount on ${point}` }))
}

function loopDevicesOf(run: string): Leftover[] {
  return readdirSync('/sys/block')
    .filter((name) => name.startsWith('loop'))
    .map((name) => ({ name, file: orGone(() => readFileSync(`/sys/block/${name}/loop/backing_file`, 'utf8').trim()) ?? '' }))
    .filter(({ file }) => isBelow(file, run))
    .map(({ name, file }) => ({ kind: 'loop device', what: `/dev/${name} over ${file}` }))
}

// Servers name their data directory in the alias of each device, and in a comment of each rule that leads to theirs.
function networkDevicesOf(run: string): Leftover[] {
  return readdirSync('/sys/class/net')
    .filter((name) => (orGone(() => readFileSync(`/sys/class/net/${name}/ifalias`, 'utf8')) ?? '').includes(` ${run}/`))
    .map((device) => ({ kind: 'network device', device, what: `network device ${device}` }))
}

function rulesOf(run: string): Leftover[] {
  if (process.getuid?.() !== 0) return []
  const { stdout } = spawnSync('iptables-save', { encoding: 'utf8' })
  return stdout
    .split('\n')
    .filter((line) => line.includes(` ${run}/`))
    .map((line) => ({ kind: 'rule', what: `rule ${line}` }))
}

function filesOf(run: string): Leftover[] {
  return (orGone(() => readdirSync(run)) ?? []).map((name) => ({ kind: 'file', what: path.join(run, name) }))
}

function isBelow(file: string, directory: string): boolean {
  return file === directory || file.startsWith(`${directory}/`)
}

// Processes and devices end while we look: what is gone, or is not ours to see, is not a leftover of ours.
function orGone<T>(read: () => T): T | undefined {
  try {
    return read()
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'ENOENT' || code === 'ESRCH' || code === 'EACCES' || code === 'EPERM') return undefined
    throw error
  }
}
