// The stand-in's process as a program: built from its sources when it is first needed, kept below node_modules.

import { mkdir, rename, rm } from 'node:fs/promises'
import path from 'node:path'
import { run } from '../command.ts'

const sources = path.join(import.meta.dirname, 'vmm')
const kept = path.resolve(import.meta.dirname, '../../../node_modules/.cache/hypeman')

let building: Promise<string> | undefined

/** Absolute path of the program. Go knows by itself whether there is anything to build. */
export function standInProgram(): Promise<string> {
  building ??= build()
  return building
}

async function build(): Promise<string> {
  await mkdir(kept, { recursive: true })
  const [program, fresh] = [path.join(kept, 'stand-in'), path.join(kept, `stand-in.${process.pid}`)]
  try {
    const { code, stderr } = await run('go', ['build', '-o', fresh, '.'], { cwd: sources, env: { ...process.env, CGO_ENABLED: '0' } })
    if (code !== 0) throw new Error(`the stand-in can't be built: ${stderr}`)
    // By a rename, since other tests may be starting the one that is there.
    await rename(fresh, program)
  } finally {
    await rm(fresh, { force: true })
  }
  return program
}
