// What the threads of a process wait for, as the kernel tells it: proc(5), /proc/PID/task/TID/wchan, the name of the kernel's function.

import { readdir, readFile } from 'node:fs/promises'

/** True if a thread of the process waits in a function of the kernel whose name holds `name`; false as well where the kernel does not tell, or the process is gone. */
export async function hasThreadIn(pid: number, name: string): Promise<boolean> {
  const tasks = `/proc/${pid}/task`
  const unknown = (): string => ''
  const threads = await readdir(tasks).catch((): string[] => [])
  const places = await Promise.all(threads.map((thread) => readFile(`${tasks}/${thread}/wchan`, 'latin1').catch(unknown)))
  return places.some((place) => place.includes(name))
}
