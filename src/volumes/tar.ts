// tar(1) as a child that unpacks what it is given. What may be given to it is archive.ts's business.

import { spawn } from 'node:child_process'
import { HypemanError, isHypemanError } from '../api/errors.ts'
import { TarError } from '../files/tar-headers.ts'

/** As much of tar's complaints is kept, in characters. */
const LONGEST_COMPLAINT = 4096

/** Disposing ends it, also in the middle, and waits until it is gone. */
export interface TarProcess extends AsyncDisposable {
  /** Resolves when tar has room for more. */
  write(chunk: Uint8Array): Promise<void>
  /** Ends the input and waits for tar's success. */
  end(): Promise<void>
  /** What an error on the way means: often tar knows better. Ends tar. */
  failure(error: unknown): Promise<unknown>
}

/** Whether owners can be given to files. */
export function keepsOwners(): boolean {
  return process.getuid?.() === 0
}

export function startTar(directory: string): TarProcess {
  const child = spawn('tar', [...argumentsFor(directory)], {
    stdio: ['pipe', 'ignore', 'pipe'],
    env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' },
  })
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (said = (said + text).slice(-LONGEST_COMPLAINT)))
  const { promise: exited, resolve: exit } = Promise.withResolvers<number | Error>()
  child.once('error', exit)
  child.once('close', (code) => exit(code ?? -1))
  child.stdin.on('error', () => undefined) // tar has ended early: told by its exit

  const end = async (): Promise<void> => {
    child.stdin.end()
    const code = await exited
    if (code !== 0) throw new Error('tar failed', { cause: code })
  }
  return {
    async write(chunk) {
      const { promise, resolve } = Promise.withResolvers<Error | null | undefined>()
      child.stdin.write(chunk, resolve)
      // tar may end at the end of the archive; what follows there is nobody's.
      if ((await promise) instanceof Error && (await exited) !== 0) throw new Error('tar has ended')
    },
    end,
    async failure(error) {
      // What tar has not finished by itself is ended here, so its exit then says nothing.
      const finished = child.stdin.destroyed || child.exitCode !== null || child.stdin.writableEnded
      if (!finished) child.kill('SIGKILL')
      child.stdin.destroy()
      const code = await exited
      if (isHypemanError(error)) return error
      if (code instanceof Error) return new HypemanError('host_unavailable', 'tar is not installed; run npm run setup', { cause: code })
      if (/no space left on device|disk quota exceeded|wrote only \d+ of/i.test(said))
        return new HypemanError('storage_full', 'no space left to unpack the archive; free some on the data directory and try again', {
          cause: new Error(said.trim()),
        })
      return new HypemanError('invalid_archive', `the archive can't be unpacked: ${reasonOf(error, said)}`, { cause: error })
    },
    async [Symbol.asyncDispose]() {
      child.stdin.destroy()
      child.kill('SIGKILL')
      await exited
    },
  }
}

function argumentsFor(directory: string): readonly string[] {
  const common = ['--extract', '--file=-', `--directory=${directory}`, '--numeric-owner', '--same-permissions', '--delay-directory-restore']
  return keepsOwners()
    ? [...common, '--same-owner', '--xattrs', '--xattrs-include=user.*', '--xattrs-include=security.capability']
    : [...common, '--no-same-owner']
}

function reasonOf(error: unknown, said: string): string {
  const complaint = said.split('\n').find((line) => line !== '' && !line.includes('Exiting with failure status'))
  if (error instanceof TarError || complaint === undefined) return error instanceof Error ? error.message : String(error)
  return complaint
}
