// A machine that is worth forking: it has used its randomness, holds a connection to the outside, and runs a program whose own generator is seeded already.

import { probeDirectory as probes } from '../../src/cli/fork-check/probes.ts'
import { runMachine, shell } from './machine.ts'
import type { TestServer } from './server.ts'
import { listenSilently } from './silent-listener.ts'

export interface ForkWorld extends AsyncDisposable {
  readonly id: string
  /** Of the machine with all of that. */
  readonly snapshotId: string
}

/** A shell that was seeded before the snapshot goes on with the same numbers in each fork: nobody but the program itself can change that. */
const generator = `
  mkfifo /run/ask /run/answer
  sh -c 'while :; do read -r _ </run/ask; echo $RANDOM-$RANDOM-$RANDOM >/run/answer; done' >/dev/null 2>&1 </dev/null &
  mkdir -p ${probes}
  printf '#!/bin/sh\\necho >/run/ask; cat /run/answer\\n' >${probes}/info-shell
  chmod +x ${probes}/info-shell
  ${probes}/info-shell`

/** `machine`: another than the smallest with the base image. `prepare`: commands that are run in it, too. */
export async function startForkWorld(
  server: TestServer,
  {
    machine = {},
    prepare = [],
  }: { readonly machine?: Omit<Parameters<typeof runMachine>[1], 'name'>; readonly prepare?: readonly string[] } = {},
): Promise<ForkWorld> {
  await using undo = new AsyncDisposableStack()
  const port = await listenSilently(undo)
  const id = await runMachine(server, { ...machine, name: 'origin' })
  await shell(server, id, generator)
  for (const command of prepare) await shell(server, id, command)
  await shell(
    server,
    id,
    `dd if=/dev/urandom of=/dev/null bs=4096 count=64 2>/dev/null
     (sleep 100000 | nc 10.0.2.2 ${port}) >/dev/null 2>&1 &
     until netstat -tn | grep -q '10.0.2.2:${port} *ESTABLISHED'; do sleep 0.1; done`,
  )
  const { id: snapshotId } = await server.client.instances.snapshots.create(id, { kind: 'Standby', name: 'warm' })
  const all = undo.move()
  return { id, snapshotId, [Symbol.asyncDispose]: () => all.disposeAsync() }
}
