// The directory of a process that runs in a jail, whose own root says nothing of it: a directory of the jail is mounted from there, and the kernel tells from where, also after it was renamed.
// mountinfo of proc_pid_mountinfo(5): the third field is the device, the fourth the path within its file system, the fifth the place.

import { readFile } from 'node:fs/promises'
import path from 'node:path'

/** Where a jail lies in the directory that it is made for, and what in it is mounted into the jail, under the same name. */
export const jailPlace = { directory: 'jail.tmp', out: 'out' } as const

interface Mount {
  readonly device: string
  readonly root: string
  readonly place: string
}

/** Undefined for a process in no jail of ours. `known` chooses where the directory has several names: the one that is it, or lies below. */
export async function jailedDirectory(pid: number, known: string): Promise<string | undefined> {
  const out = (await mountsOf(pid)).find(
    ({ place, root }) => place === `/${jailPlace.out}` && root.endsWith(path.join('/', jailPlace.directory, jailPlace.out)),
  )
  if (out === undefined) return undefined
  const within = path.dirname(path.dirname(out.root))
  const names = (await mountsOf('self')).flatMap(({ device, root, place }) => {
    if (device !== out.device) return []
    return isBelow(within, root) ? [path.join(place, path.relative(root, within))] : []
  })
  return names.find((name) => isBelow(name, known)) ?? names[0]
}

/** Also of the directory itself. Both are absolute. */
export function isBelow(file: string, directory: string): boolean {
  const rest = path.relative(directory, file)
  return rest !== '..' && !rest.startsWith(`..${path.sep}`)
}

/** None of a process that is gone, or not ours to look at. */
async function mountsOf(pid: number | 'self'): Promise<readonly Mount[]> {
  const text = await readFile(`/proc/${pid}/mountinfo`, 'utf8').catch(() => '')
  return text.split('\n').flatMap((line) => {
    const [, , device, root, place] = line.split(' ')
    if (device === undefined || root === undefined || place === undefined) return []
    return [{ device, root: unescaped(root).replace(/\/\/deleted$/, ''), place: unescaped(place) }]
  })
}

/** Blanks, line ends and backslashes are in there as octal numbers. */
function unescaped(field: string): string {
  return field.replaceAll(/\\([0-7]{3})/g, (_, digits: string) => String.fromCodePoint(Number.parseInt(digits, 8)))
}
