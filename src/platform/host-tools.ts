// The programs that hypeman calls: are they there, and which versions. Not for the hypervisors' own (their drivers) nor for what the kernel allows (host-rights.ts).

import { execFile } from 'node:child_process'
import { found, lacking, type Probe, type Wording } from './probe.ts'

interface Tool {
  readonly program: string
  readonly argument: string
  readonly wording: Wording
}

const setup = 'npm run setup installs it'

const tools: readonly Tool[] = [
  tool('qemu-img', '--version', 'makes the writable disks of machines', 'no machine can be created', true),
  tool('skopeo', '--version', 'fetches images from registries and archives', 'no image can be pulled or imported', true),
  tool('umoci', '--version', 'unpacks image layers', 'no image can be pulled or imported', true),
  tool('mkfs.erofs', '-V', 'makes the read-only disks of images', 'no image can be converted', true),
  tool('mkfs.ext4', '-V', 'formats system disks and volumes', 'no machine or volume can be created', true),
  tool('iptables', '--version', "leads into and out of machines on the host's network", "no machine can be on the host's network", false),
  tool('tc', '-V', 'limits the bandwidth of machines', 'bandwidth can not be limited', false),
  tool('zstd', '--version', 'compresses the memory of snapshots', 'snapshots can not be compressed by zstd', false),
  tool('lz4', '--version', 'compresses the memory of snapshots', 'snapshots can not be compressed by lz4', false),
]

export function probeTools(): Promise<Probe[]> {
  return Promise.all(tools.map(probeTool))
}

function tool(program: string, argument: string, good: string, bad: string, essential: boolean): Tool {
  return { program, argument, wording: { name: program, good, bad, essential, fix: setup } }
}

// Some print their version on stderr, or beside a complaint about the option: any answer with a number in it will do.
async function probeTool({ program, argument, wording }: Tool): Promise<Probe> {
  const { promise, resolve } = Promise.withResolvers<Probe>()
  execFile(program, [argument], { timeout: 10_000 }, (error, stdout, stderr) => {
    const version = /\d+\.\d+[^\s,]*/.exec(`${stdout}\n${stderr}`)?.[0]
    if (error?.code === 'ENOENT') resolve(lacking(wording, 'not found on PATH'))
    else if (version === undefined) resolve(lacking(wording, `does not run: ${error?.message ?? 'it names no version'}`))
    else resolve(found(wording, version))
  })
  return promise
}
