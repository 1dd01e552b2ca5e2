// What the kernel says of a disk that is full, read-only or failing, in words for people. Other errors stay as they are.

import { HypemanError } from '../api/errors.ts'

/** The error as the user should see it; errors that are no disk errors stay as they are. */
export function diskError(where: string, error: unknown): unknown {
  if (!(error instanceof Error) || !('code' in error)) return error
  switch (error.code) {
    case 'ENOSPC':
    case 'EDQUOT':
      return new HypemanError('storage_full', `no space left to write ${where}; free some and try again`, { cause: error })
    case 'EROFS':
      return new HypemanError('storage_unsuitable', `${where} is on a read-only filesystem; remount it writable`, { cause: error })
    case 'EIO':
      return new HypemanError('storage_unsuitable', `the disk under ${where} fails (EIO); see the host's kernel log`, { cause: error })
    default:
      return error
  }
}

/** Runs file work on a path; a disk that is full, read-only or failing becomes an error that says so. */
export async function diskErrors<T>(where: string, act: () => Promise<T>): Promise<T> {
  try {
    return await act()
  } catch (error) {
    throw diskError(where, error)
  }
}
