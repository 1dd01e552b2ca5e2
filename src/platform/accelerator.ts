// Which accelerator guests get here: KVM where it really boots a kernel within a time limit, else emulation. The existence of
// /dev/kvm proves nothing: on some hosts the device opens and every guest hangs. Not for what else the host can do (host.ts).

import { execFile, spawn } from 'node:child_process'
import { constants } from 'node:fs'
import { access, mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { z } from 'zod'
import { emulators, hostEmulator } from './emulator.ts'

export type Accelerator = 'kvm' | 'tcg'

export interface AcceleratorOptions {
  /** QEMU's binary, found on PATH unless absolute. */
  readonly qemu?: string | undefined
  /** Absolute path of the guest kernel to boot. */
  readonly kernel?: string | undefined
  /** Absolute path of the file that keeps the verdict; another boot, QEMU, kernel or user makes it stale. */
  readonly cacheFile?: string | undefined
  /** Try again whatever was found before: a busy host may have missed the limit. */
  readonly fresh?: boolean | undefined
}

export interface AcceleratorVerdict {
  readonly accelerator: Accelerator
  /** One sentence: what was tried and how it went. */
  readonly reason: string
}

/** The accelerator for QEMU on this host. Boots a kernel on the first call after a boot of the host, then answers from memory or the file. */
export async function acceleratorOf(options: AcceleratorOptions = {}): Promise<Accelerator> {
  return (await judgeAccelerator(options)).accelerator
}

const verdicts = new Map<string, Promise<AcceleratorVerdict>>()

/** As `acceleratorOf`, with the reason. Never throws for a host without KVM; a failure to look is thrown and tried again by the next call. */
export function judgeAccelerator(options: AcceleratorOptions = {}): Promise<AcceleratorVerdict> {
  const { qemu = hostEmulator()?.program, kernel = installedKernel, cacheFile = defaultCacheFile(), fresh = false } = options
  if (qemu === undefined) return Promise.resolve({ accelerator: 'tcg', reason: `there are no guests for ${process.arch} processors` })
  const id = JSON.stringify([qemu, kernel, cacheFile])
  const known = verdicts.get(id)
  if (known !== undefined && !fresh) return known
  const judging = judge({ qemu, kernel, cacheFile, fresh })
  verdicts.set(id, judging)
  judging.catch(() => verdicts.delete(id))
  return judging
}

/** What scripts/setup unpacks. */
const installedKernel = path.join(import.meta.dirname, '..', '..', '.assets', 'vmlinuz')

// Below the home directory, since a name in /tmp could be anybody's.
function defaultCacheFile(): string {
  return path.join(homedir(), '.cache', 'hypeman', 'accelerator.json')
}

interface Judgement {
  readonly qemu: string
  readonly kernel: string
  readonly cacheFile: string
  readonly fresh: boolean
}

async function judge(options: Judgement): Promise<AcceleratorVerdict> {
  const closed = await access('/dev/kvm', constants.R_OK | constants.W_OK).then(
    () => undefined,
    (error: NodeJS.ErrnoException) => error.code,
  )
  if (closed !== undefined)
    return { accelerator: 'tcg', reason: closed === 'ENOENT' ? 'there is no /dev/kvm' : `/dev/kvm can't be opened (${closed})` }
  const kernel = await stat(options.kernel).catch(() => undefined)
  if (kernel === undefined)
    return { accelerator: 'tcg', reason: `/dev/kvm opens, but there is no guest kernel to try it with (${options.kernel})` }
  const version = await qemuVersion(options.qemu)
  if (version === undefined) return { accelerator: 'tcg', reason: `${options.qemu} can't be run` }

  const bootId = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim()
  const key = [bootId, version, options.qemu, options.kernel, kernel.size, kernel.mtimeMs, process.getuid?.() ?? 0].join(' ')
  const cached = options.fresh ? undefined : await readVerdict(options.cacheFile, key)
  if (cached !== undefined) return cached
  const boot = await bootKernel({ ...options, accelerator: 'kvm', limitMs: 3_000 })
  const verdict: AcceleratorVerdict = boot.booted
    ? { accelerator: 'kvm', reason: `a kernel boots under KVM in ${boot.ms} ms` }
    : { accelerator: 'tcg', reason: `/dev/kvm opens, but ${boot.reason}` }
  await writeVerdict(options.cacheFile, { key, ...verdict })
  return verdict
}

/** First line of `qemu --version`, or undefined if it can't be run. */
async function qemuVersion(qemu: string): Promise<string | undefined> {
  return promisify(execFile)(qemu, ['--version'], { timeout: 10_000 }).then(
    ({ stdout }) => stdout.split('\n')[0],
    () => undefined,
  )
}

export interface BootAttempt {
  readonly qemu: string
  readonly kernel: string
  readonly accelerator: Accelerator
  /** Time from the start of QEMU to the kernel's last words, milliseconds. */
  readonly limitMs: number
}

export type BootResult = { readonly booted: true; readonly ms: number } | { readonly booted: false; readonly reason: string }

/**
 * Boots a kernel without a root file system: one that works gets as far as panicking for want of it, past decompression, timers,
 * interrupts and drivers. QEMU's exit alone would not tell, since a guest that resets at once ends it as well.
 */
export async function bootKernel(attempt: BootAttempt): Promise<BootResult> {
  const started = performance.now()
  const child = spawn(attempt.qemu, bootArguments(attempt), { stdio: ['ignore', 'pipe', 'pipe'] })
  const ended = Promise.withResolvers<string>()
  const limit = setTimeout(() => ended.resolve(`a kernel does not boot within ${attempt.limitMs} ms`), attempt.limitMs)
  let console = ''
  let complaints = ''
  child.stdout.on('data', (chunk: Buffer) => {
    console += chunk.toString('latin1')
    if (console.includes(lastWords)) ended.resolve('')
  })
  child.stderr.on('data', (chunk: Buffer) => (complaints += chunk.toString('utf8')))
  child.once('error', (error) => ended.resolve(`QEMU can't be started: ${error.message}`))
  child.once('close', (code, signal) => ended.resolve(`QEMU ended early (${signal ?? code}): ${lastLine(complaints)}`))
  try {
    const reason = await ended.promise
    return reason === '' ? { booted: true, ms: Math.round(performance.now() - started) } : { booted: false, reason }
  } finally {
    clearTimeout(limit)
    await endOf(child)
  }
}

function lastLine(text: string): string {
  return (
    text
      .trim()
      .split('\n')
      .at(-1)
      ?.replace(/^qemu[^:]*: /, '')
      .slice(0, 100) || 'without a word'
  )
}

const lastWords = 'Kernel panic - not syncing: VFS'

function bootArguments({ kernel, accelerator }: BootAttempt): string[] {
  const { machine, console } = hostEmulator() ?? emulators.x64
  return [
    ...['-M', `${machine},accel=${accelerator}`, '-cpu', accelerator === 'kvm' ? 'host' : 'max', '-m', '128'],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-serial', 'stdio'],
    ...['-kernel', kernel, '-append', `console=${console} loglevel=1 panic=-1`],
  ]
}

// A QEMU that spins inside the kernel's KVM still obeys SIGKILL; we wait until it is gone so that nothing of the probe stays.
async function endOf(child: ReturnType<typeof spawn>): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
  const gone = Promise.withResolvers<void>()
  child.once('exit', () => gone.resolve())
  child.kill('SIGKILL')
  await gone.promise
}

const cachedVerdict = z.object({ key: z.string(), accelerator: z.enum(['kvm', 'tcg']), reason: z.string() })

// A file that is absent, unreadable or of another shape only costs another boot.
async function readVerdict(file: string, key: string): Promise<AcceleratorVerdict | undefined> {
  const text = await readFile(file, 'utf8').catch(() => '')
  const parsed = cachedVerdict.safeParse(parseJson(text))
  return parsed.success && parsed.data.key === key ? { accelerator: parsed.data.accelerator, reason: parsed.data.reason } : undefined
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    if (error instanceof SyntaxError) return undefined
    throw error
  }
}

// Two processes may write at once: each its own file, then a rename. A home that can't be written only costs another boot next time.
async function writeVerdict(file: string, verdict: z.infer<typeof cachedVerdict>): Promise<void> {
  const written = `${file}.${process.pid}`
  try {
    await mkdir(path.dirname(file), { recursive: true })
    await writeFile(written, JSON.stringify(verdict), { mode: 0o600 })
    await rename(written, file)
  } catch (error) {
    if (!['EACCES', 'EPERM', 'EROFS', 'ENOENT', 'ENOTDIR', 'ENOSPC'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
  }
}
