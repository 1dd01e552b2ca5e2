// What this host has and lacks for running machines, each fact found by trying it. For `hypeman doctor` and the server's start;
// which accelerator a machine gets is accelerator.ts.

import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { judgeAccelerator, type AcceleratorOptions } from './accelerator.ts'
import { probeRights } from './host-rights.ts'
import { probeStorage } from './host-storage.ts'
import { probeTools } from './host-tools.ts'
import { found, lacking, reasonOf, type Probe, type Wording } from './probe.ts'

export type { Probe } from './probe.ts'

export interface HostOptions extends AcceleratorOptions {
  /** Absolute path of the directory with the guest's kernel, initramfs and base image. */
  readonly assets?: string | undefined
}

/** Looks at everything that matters, what is essential first. Takes some seconds where KVM has to be tried. */
export async function probeHost(dataDir: string, options: HostOptions = {}): Promise<Probe[]> {
  const groups = await Promise.all([
    probeTools(),
    probeGuestParts(options.assets ?? installedAssets),
    probeKvm(options),
    probeStorage(dataDir),
    probeRights(),
  ])
  return groups.flat().toSorted((one, other) => Number(other.essential) - Number(one.essential))
}

const kvm: Wording = {
  name: 'KVM',
  essential: false,
  good: 'machines run at the speed of the hardware',
  bad: 'machines run under emulation (tcg): everything works, and what computes is many times slower',
  fix: 'use a host whose /dev/kvm boots guests and that this user may open (group kvm)',
}

async function probeKvm(options: AcceleratorOptions): Promise<Probe[]> {
  const { accelerator, reason } = await judgeAccelerator(options)
  return [accelerator === 'kvm' ? found(kvm, reason) : lacking(kvm, reason)]
}

const guestParts: Wording = {
  name: 'guest parts',
  essential: true,
  good: 'kernel, initramfs with the agent, and the image hypeman/base are built',
  bad: 'no machine can boot',
  fix: 'npm run setup builds them',
}

/** What scripts/setup leaves. */
const installedAssets = path.join(import.meta.dirname, '..', '..', '.assets')
const manifest = z.object({ kernel_version: z.string(), agent_version: z.string() })

async function probeGuestParts(assets: string): Promise<Probe[]> {
  try {
    const { kernel_version: kernel, agent_version: agent } = manifest.parse(
      JSON.parse(await readFile(path.join(assets, 'assets.json'), 'utf8')),
    )
    return [found(guestParts, `kernel ${kernel}, agent ${agent}`)]
  } catch (error) {
    return [
      lacking(
        guestParts,
        error instanceof z.ZodError || error instanceof SyntaxError
          ? 'assets.json is damaged'
          : `assets.json can't be read (${reasonOf(error)})`,
      ),
    ]
  }
}
