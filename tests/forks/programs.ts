// The image of npm run test:forks, which scripts/build-forks-image makes, and what its machine does before it is snapshotted: each program has been used, so that there is
// something that forks could have in common.

import { createReadStream } from 'node:fs'
import path from 'node:path'
import { createClient } from '../../src/client/client.ts'
import { probeDirectory as probes } from '../../src/cli/fork-check/probes.ts'
import type { TestServer } from '../support/server.ts'
import { until } from '../support/until.ts'

const archive = path.resolve(import.meta.dirname, '../../.assets/forks.oci.tar')
/** Until the image is made of its archive, in milliseconds. */
const READY_LIMIT_MS = 120_000

/** Node needs some 50 MB, and the files of all programs are kept in memory. */
export const machine = { image: 'hypeman/forks', size: '320MB' } as const

/** Brings a probe for fork-check, which has to find something. */
const probe = (name: string, command: string): string => `
  printf '%s\\n' '#!/bin/sh' '${command}' >${probes}/${name}
  chmod +x ${probes}/${name}
  test -n "$(${probes}/${name})"`

const sshd = `
  sed -i '/^HostKey/d' /etc/ssh/sshd_config
  printf '%s\\n' 'HostKey /etc/ssh/ssh_host_ed25519_key' 'HostKey /etc/ssh/ssh_host_ecdsa_key' 'KexAlgorithms curve25519-sha256' >>/etc/ssh/sshd_config
  mkdir -p /run/sshd
  /usr/sbin/sshd
  ${probe('running-sshd', 'for attempt in 1 2 3 4 5; do ssh-keyscan -t ed25519 127.0.0.1 2>/dev/null | grep ssh-ed25519 && break; done')}`

const runningPython = `
  mkfifo /run/ask-python /run/python-answer
  python3 -c '
import os, secrets
while True:
    open("/run/ask-python").read()
    with open("/run/python-answer", "w") as answer:
        print(secrets.token_hex(16), os.urandom(16).hex(), file=answer)
' >/dev/null 2>&1 </dev/null &
  ${probe('running-python', 'echo >/run/ask-python; cat /run/python-answer')}`

/**
 * Commands, each of which must succeed. sshd goes on in each fork, and must present the fork's key to whoever asks it. So does a Python that has drawn from the kernel
 * before: `secrets` keeps nothing. No RSA key, which takes ten seconds under emulation, and the cheapest key exchange.
 */
export const prepare: readonly string[] = [
  "for kind in ed25519 ecdsa; do ssh-keygen -q -t $kind -N '' -f /etc/ssh/ssh_host_${kind}_key; done",
  sshd,
  runningPython,
  "python3 -c 'import os, random, uuid; os.getrandom(32), random.random(), uuid.uuid4()'",
  `node -e 'require("crypto").randomBytes(32)'`,
  "perl -e 'rand'",
  'openssl rand -hex 32',
]

export async function importImage(server: TestServer): Promise<void> {
  const { images } = createClient({ baseUrl: server.url, token: () => server.token })
  await images.import(machine.image, createReadStream(archive))
  await until(
    'the image is ready',
    async () => {
      const { status, error } = await images.get(machine.image)
      if (status === 'failed') throw new Error(`the image could not be made of ${archive}: ${error}`)
      return status === 'ready'
    },
    READY_LIMIT_MS,
  )
}
