// Instances that are given another size, on every hypervisor: more while they run, where it can be done, and any size while they are stopped. They go on with the machine of the others.

import assert from 'node:assert/strict'
import type { HypervisorWorld } from './hypervisor-scenarios.ts'
import type { Outcome } from './hypervisor-table.ts'
import { shell, untilRunning } from './machine.ts'
import { refusedWith } from './refused.ts'
import { countVm } from './vm-count.ts'

const MIB = 1024 ** 2

/** Fields of an update that the official client does not know. */
interface Size {
  readonly size?: string
  readonly vcpus?: number
  readonly overlay_size?: string
}

async function give({ server, machine }: HypervisorWorld, size: Size): Promise<void> {
  await server.client.instances.update(machine, size as object)
}

interface Seen {
  readonly processors: number
  /** Of memory and disk, as the kernel tells: somewhat less than there is. */
  readonly memoryMib: number
  readonly diskMib: number
}

async function seen(world: Pick<HypervisorWorld, 'server'>, id: string): Promise<Seen> {
  const script = "nproc; sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo; df -k / | tail -n 1 | awk '{print $2}'"
  const [processors = 0, memory = 0, disk = 0] = (await shell(world.server, id, script)).split('\n').map(Number)
  return { processors, memoryMib: memory / 1024, diskMib: disk / 1024 }
}

/** Less than there is by what a kernel and a file system keep for themselves. */
function isAbout(seenMib: number, mib: number): void {
  assert.ok(seenMib <= mib && seenMib > mib * 0.75, `${seenMib} MiB of ${mib}`)
}

/** What it shows of an instance, in MiB and processors. */
async function shown({ server, machine }: HypervisorWorld): Promise<readonly unknown[]> {
  const { size, vcpus, overlay_size: disk, hotplug_size: left } = await server.client.instances.get(machine)
  return [size, vcpus, disk, left]
}

/** The disk in place, then processors and memory, which standby, restore and forks keep. What the hypervisor can't is refused, and nothing has changed. */
export async function growsWhileItRuns(world: HypervisorWorld): Promise<Outcome> {
  const { server, machine, features, hypervisor } = world
  const { client } = server
  const before = [await shown(world), await seen(world, machine)]
  if (features.has('disk-resize')) {
    await shell(server, machine, 'echo kept > /root/grown')
    await give(world, { overlay_size: '2GB' })
    isAbout((await seen(world, machine)).diskMib, 2048)
    assert.equal(await shell(server, machine, 'head -c 5000000 /dev/zero > /root/more && sync && cat /root/grown'), 'kept')
  } else {
    await assert.rejects(give(world, { overlay_size: '2GB' }), refusedWith(501, /disk/))
    assert.deepEqual([await shown(world), await seen(world, machine)], before)
  }
  await assert.rejects(give(world, { size: '64MB' }), refusedWith(409, /stop it first/))
  if (!features.has('hotplug-memory')) {
    await assert.rejects(give(world, { size: '320MB', vcpus: 2 }), refusedWith(501, /stop it first/))
    return features.has('disk-resize') ? 'done' : 'refused'
  }
  for (const size of ['200MB', '2GB']) await assert.rejects(give(world, { size }), refusedWith(400, /pieces of 128|room for 448/))
  await give(world, { size: '320MB', vcpus: 2 })
  assert.deepEqual(await shown(world), ['320.0 MB', 2, '2.0 GB', '128.0 MB'])
  const { processors, memoryMib } = await seen(world, machine)
  assert.equal(processors, 2)
  isAbout(memoryMib, 320)
  // More than there was: it lies in what was added, too.
  await shell(
    server,
    machine,
    'mount -t tmpfs -o size=170m none /mnt && head -c 150000000 /dev/urandom > /mnt/large && md5sum < /mnt/large > /run/sum',
  )
  await client.instances.standby(machine)
  await client.instances.restore(machine)
  countVm('restore')
  const check = 'md5sum < /mnt/large | cmp - /run/sum && nproc'
  assert.equal(await shell(server, machine, check), '2')
  // A second piece, in a machine that was restored: its snapshot has both, and what it never asked for.
  await give(world, { size: '448MB' })
  isAbout((await seen(world, machine)).memoryMib, 448)
  const snapshot = await client.instances.snapshots.create(machine, { kind: 'Standby', name: 'grown' })
  const fork = await client.snapshots.fork(snapshot.id, { name: `${hypervisor}-grown` })
  countVm('fork')
  assert.equal(await shell(server, fork.id, check), '2')
  isAbout((await seen(world, fork.id)).memoryMib, 448)
  await client.instances.delete(fork.id)
  await client.snapshots.delete(snapshot.id)
  await shell(server, machine, 'umount /mnt')
  return 'done'
}

/** Any size, for the next start. */
export async function anotherSizeWhenStopped(world: HypervisorWorld): Promise<void> {
  const { server, machine } = world
  await shell(server, machine, 'echo kept > /root/grown; sync')
  await server.client.instances.standby(machine)
  await assert.rejects(give(world, { vcpus: 1 }), refusedWith(409, /only a Running or Stopped instance/))
  await server.client.instances.stop(machine)
  await give(world, { size: '256MB', vcpus: 2, overlay_size: '3GB' })
  await assert.rejects(give(world, { overlay_size: '1GB' }), refusedWith(400, /can only grow/))
  const { instances } = server.client
  await instances.start(machine, {})
  await untilRunning(server, machine)
  const { processors, memoryMib, diskMib } = await seen(world, machine)
  assert.equal(processors, 2)
  isAbout(memoryMib, 256)
  isAbout(diskMib, 3072)
  assert.equal(await shell(server, machine, 'cat /root/grown'), 'kept')
  assert.equal((await instances.stats(machine)).allocated_memory_bytes, 256 * MIB)
}
