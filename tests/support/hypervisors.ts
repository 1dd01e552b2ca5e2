// The hypervisors that tests go through, each with what it is tested on here: itself, or the stand-in for it (tests/vmm-stand-in).

import path from 'node:path'
import { judgeAccelerator } from '../../src/platform/accelerator.ts'
import { hasHostNetwork } from './host-network.ts'
import { startServer, type ServerProgram, type TestServer } from './server.ts'

export interface HypervisorUnderTest {
  readonly name: string
  /** What it is called in tests, where there are several of a name. */
  readonly title?: string
  /** A stand-in speaks its API. */
  readonly standIn: boolean
  /** Settings of its server. */
  readonly settings: Readonly<Record<string, string>>
  /** Fields of a create that only this one needs. */
  readonly body: Readonly<Record<string, unknown>>
  /** The server, where its drivers are told that the host is another than it is. */
  readonly program?: ServerProgram
  /** A snapshot ends the connections to the guest's agent, as Firecracker's does. */
  readonly cutsStreams?: true
  /** Why it is not tested here. */
  readonly skip?: string
}

/** Why a hypervisor that has networks by tap devices alone, and whose real program needs KVM, can't be tested here. */
async function whyNotHere(real: string | undefined): Promise<{ readonly skip?: string }> {
  if (!hasHostNetwork) return { skip: 'needs root and /dev/net/tun: its guests have networks by devices of the host alone' }
  if (real === undefined) return {}
  const { accelerator, reason } = await judgeAccelerator()
  return accelerator === 'kvm' ? {} : { skip: `${real} needs KVM: ${reason}` }
}

/** The same, started by the jailer beside it. */
async function jailedFirecracker(real: string | undefined): Promise<HypervisorUnderTest> {
  const plain = await firecracker(real)
  const skip = plain.skip ?? (process.getuid?.() === 0 ? undefined : 'only root can make jails')
  return {
    ...plain,
    title: 'firecracker-jailed',
    settings: { ...plain.settings, HYPERVISOR__JAILER: 'on' },
    ...(skip === undefined ? {} : { skip }),
  }
}

/** Where a real one is, else its stand-in. */
async function firecracker(real: string | undefined): Promise<HypervisorUnderTest> {
  const body = {}
  const skip = await whyNotHere(real)
  if (real !== undefined)
    return { name: 'firecracker', standIn: false, settings: { HYPERVISOR__FIRECRACKER: real }, body, cutsStreams: true, ...skip }
  const program = path.resolve(import.meta.dirname, '../vmm-stand-in/bin/firecracker')
  return {
    name: 'firecracker',
    standIn: true,
    settings: { HYPERVISOR__FIRECRACKER: program, HYPERVISOR__NEEDS_KVM: 'false' },
    body,
    cutsStreams: true,
    ...skip,
  }
}

const all: readonly HypervisorUnderTest[] = [
  { name: 'qemu', standIn: false, settings: {}, body: {} },
  { name: 'qemu-microvm', standIn: false, settings: {}, body: {} },
  {
    name: 'vz',
    standIn: true,
    settings: { HYPERVISOR__DEFAULT: 'vz' },
    body: { network: { enabled: false } },
    program: { command: process.execPath, args: [path.join(import.meta.dirname, 'vz-server.ts')] },
  },
  await firecracker(process.env['HYPEMAN_TEST_FIRECRACKER']),
  await jailedFirecracker(process.env['HYPEMAN_TEST_FIRECRACKER']),
  await cloudHypervisor(process.env['HYPEMAN_TEST_CLOUD_HYPERVISOR']),
]

/** The real one where it is given. */
async function cloudHypervisor(program: string | undefined): Promise<HypervisorUnderTest> {
  const standIn = path.resolve(import.meta.dirname, '../vmm-stand-in/bin/cloud-hypervisor')
  return {
    name: 'cloud-hypervisor',
    standIn: program === undefined,
    settings: {
      HYPERVISOR__CLOUD_HYPERVISOR: program ?? standIn,
      ...(program === undefined ? { HYPERVISOR__NEEDS_KVM: 'false' } : {}),
    },
    body: {},
    ...(await whyNotHere(program)),
  }
}

/** `wanted`: names with commas between them, `all`, or undefined for those of the usual run. */
export function hypervisorsUnderTest(wanted: string | undefined): readonly HypervisorUnderTest[] {
  // QEMU's other tests are about all of this, and more.
  if (wanted === undefined) return all.filter(({ name }) => name !== 'qemu')
  const titles = wanted.split(',')
  const unknown = titles.filter((title) => title !== 'all' && !all.some((one) => titleOf(one) === title))
  if (unknown.length > 0) throw new Error(`there is no hypervisor ${unknown.join(', ')}; choose of ${all.map(titleOf).join(', ')}`)
  return titles.includes('all') ? all : all.filter((one) => titles.includes(titleOf(one)))
}

export function titleOf({ name, title = name }: HypervisorUnderTest): string {
  return title
}

interface StartedHypervisor extends AsyncDisposable {
  readonly server: TestServer
  readonly settings: Readonly<Record<string, string>>
  readonly body: Readonly<Record<string, unknown>>
}

export async function startHypervisor({ settings, body, program }: HypervisorUnderTest): Promise<StartedHypervisor> {
  const server = await startServer(settings, program)
  return { server, settings, body, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() }
}
