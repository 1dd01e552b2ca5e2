// What a guest with an arm64 processor boots from: Debian's kernel and busybox for it, fetched with package lists of their own, so that the host's package manager
// stays as it is; the agent, cross-compiled. Packages are kept below node_modules.

import { mkdir, readdir, rm } from 'node:fs/promises'
import path from 'node:path'
import { run } from '../command.ts'

const root = path.resolve(import.meta.dirname, '../../..')
const home = path.join(root, 'node_modules/.cache/hypeman/arm64')
const packages = path.join(home, 'packages')
const apt = path.join(home, 'apt')

/** Absolute path of a directory as `scripts/setup` makes it, or why there is none. */
export async function arm64Assets(): Promise<{ readonly directory: string } | { readonly reason: string }> {
  try {
    await mkdir(packages, { recursive: true })
    if ((await readdir(packages)).length < 2) await fetchPackages()
    const directory = path.join(home, 'assets')
    await rm(directory, { recursive: true, force: true })
    await mkdir(directory, { recursive: true })
    await build(directory)
    return { directory }
  } catch (error) {
    return { reason: error instanceof Error ? error.message : String(error) }
  }
}

async function fetchPackages(): Promise<void> {
  for (const below of ['lists/partial', 'cache/archives/partial']) await mkdir(path.join(apt, below), { recursive: true })
  const places = [`Dir::State::Lists=${apt}/lists`, `Dir::Cache=${apt}/cache`, 'Dir::State::status=/dev/null', 'APT::Sandbox::User=root']
  const options = ['APT::Architecture=arm64', 'APT::Architectures=arm64', ...places].flatMap((option) => ['-o', option])
  await must('apt-get', [...options, '-qq', 'update'])
  const depends = await must('apt-cache', [...options, 'depends', 'linux-image-cloud-arm64'])
  const kernel = /Depends: (linux-image-\S+)/.exec(depends)?.[1]
  if (kernel === undefined) throw new Error('apt knows no linux-image-cloud-arm64: is a Debian source configured?')
  await must('apt-get', [...options, '-qq', 'download', kernel, 'busybox-static'], packages)
}

async function build(directory: string): Promise<void> {
  const tree = path.join(directory, 'tree')
  await mkdir(tree)
  for (const name of await readdir(packages)) await must('dpkg', ['-x', path.join(packages, name), tree])
  const [release] = await readdir(path.join(tree, 'lib/modules'))
  if (release === undefined) throw new Error('the kernel package holds no modules')
  await must('cp', ['--sparse=always', path.join(tree, 'boot', `vmlinuz-${release}`), path.join(directory, 'vmlinuz')])
  const agent = path.join(directory, 'agent')
  await must('env', ['GOARCH=arm64', path.join(root, 'guest/build.sh'), agent])
  await must(path.join(root, 'scripts/build-initramfs'), [tree, agent, path.join(directory, 'initrd.cpio')])
  await must(path.join(root, 'scripts/build-base-image'), [path.join(directory, 'base.oci.tar'), path.join(tree, 'bin/busybox')])
}

async function must(command: string, args: readonly string[], cwd = home): Promise<string> {
  const { code, stdout, stderr } = await run(command, args, { cwd })
  if (code !== 0) throw new Error(`${command} ended with ${code}: ${stderr.trim().split('\n').at(-1) ?? ''}`)
  return stdout
}
