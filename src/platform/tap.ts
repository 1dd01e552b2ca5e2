// Opens a tap device that is there, or makes it (tuntap.rst of the kernel's documentation). What is done with it by whom: networks/tap-device.ts, and a jailed VMM's own device below.

import { open } from 'node:fs/promises'
import { constants } from 'node:os'
import { setTimeout as delay } from 'node:timers/promises'
import koffi from 'koffi'
import { HypemanError } from '../api/errors.ts'
import { messageOf } from './flow.ts'
import { ioctl, TUNSETIFF, TUNSETOWNER, tapRequest } from './ioctl.ts'

/** Nothing tells that a device is free: it is tried this often, in milliseconds. */
const BUSY_POLL_MS = 10

/** Opens the device for `act`; `flags` are those of TUNSETIFF. Closing it, which removes one that nothing keeps, takes the kernel some milliseconds: not on this thread. */
export async function attachTap(name: string, flags: number, act: (fd: number) => void, busyLimitMs = 0): Promise<void> {
  await using file = await open('/dev/net/tun', 'r+')
  const deadline = performance.now() + busyLimitMs
  for (;;) {
    const result = ioctl(file.fd, TUNSETIFF, tapRequest(name, flags))
    if (result === 0 || koffi.errno() !== constants.errno.EBUSY || performance.now() >= deadline) {
      checkCall(result, 'TUNSETIFF', name)
      return act(file.fd)
    }
    await delay(BUSY_POLL_MS)
  }
}

/** Gives a device that is there to a user: a process that is not root's may open its own alone. `host_unavailable` for one that a process has open. */
export async function giveTap(name: string, uid: number): Promise<void> {
  try {
    await attachTap(name, 0, (fd) => checkCall(ioctl(fd, TUNSETOWNER, uid), 'TUNSETOWNER', name))
  } catch (cause) {
    throw new HypemanError('host_unavailable', `the network device ${name} can't be given to a jailed process: ${messageOf(cause)}`, {
      cause,
    })
  }
}

export function checkCall(result: number, call: string, device: string): void {
  if (result !== 0) throw new Error(`${call} failed for the network device ${device} (errno ${koffi.errno()})`)
}
