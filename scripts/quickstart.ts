// The main job, shown on real machines: run an image, take a snapshot while it runs, fork it three times, restore it.
// Everything goes through a real server, its HTTP API and its command line. `--keep` leaves server and machines to play with.

import { parseArgs, styleText } from 'node:util'
import { openWorld, type World } from './demo/world.ts'
import { proveForks, showForks, tellFork, type ForkReport } from './demo/forks.ts'

const usage = `Usage: npm run quickstart [-- --keep]

  --keep   leave the server and the machines running, and say what to try next
  --help   this text
`

const forkNames = ['fork-1', 'fork-2', 'fork-3'] as const
/** Written before the snapshot, changed after it: what a restore has to bring back. */
const note = { file: '/root/note', before: 'written before the snapshot', after: 'changed after the snapshot' }
const counter = `i=0; while :; do i=$((i+1)); echo $i > /run/counter; sleep 0.1; done`

const { values } = parseArgs({ options: { keep: { type: 'boolean' }, help: { type: 'boolean' } } })
if (values.help === true) process.stdout.write(usage)
else process.exitCode = await quickstart(values.keep === true)

async function quickstart(keep: boolean): Promise<number> {
  const started = performance.now()
  const interrupted = new AbortController()
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => interrupted.abort(new Error(`interrupted by ${name}`)))
  const world = await openWorld(interrupted.signal)
  try {
    await mainJob(world)
    console.log(`\nAll of it took ${((performance.now() - started) / 1000).toFixed(1)} s.`)
    if (keep) world.keep()
    return 0
  } catch (error) {
    console.error(styleText('red', `\n✖ ${error instanceof Error ? error.message : String(error)}`))
    console.error(await world.explain())
    return 1
  } finally {
    await world[Symbol.asyncDispose]()
  }
}

async function mainJob(world: World): Promise<void> {
  const { client, step, run } = world
  console.log('')
  await step('start a server', () => world.start())
  await step('make an image from an OCI archive', () => world.importImage('quickstart/base:1'))
  await step('boot a machine from it', async () => {
    await client().instances.create({ name: 'original', image: 'quickstart/base:1', size: '256MB', vcpus: 1 })
    await world.running('original')
  })
  await step('write a file, start a program in it', async () => {
    await run('original', `echo ${note.before} > ${note.file}; (${counter}) >/dev/null 2>&1 &`)
    await run('original', 'until [ -s /run/counter ]; do sleep 0.1; done')
  })
  const counted = Number(await run('original', 'cat /run/counter'))
  const snapshot = await step('take a snapshot while it runs', () =>
    client().instances.snapshot('original', { kind: 'Standby', name: 'first' }),
  )

  const forks: ForkReport[] = []
  for (const name of forkNames) {
    const ms = await step(`fork it: ${name}`, async () => {
      const from = performance.now()
      await client().snapshots.fork(snapshot.id, { name })
      return performance.now() - from
    })
    forks.push(await tellFork(world, name, note.file, ms))
  }
  showForks(forks)
  proveForks(forks, note.before)
  console.log(
    `Each fork has the file and a program that goes on counting (it was at about ${counted} when the snapshot was taken), and nothing else in common.\n`,
  )

  await step('change the file in the original', () => run('original', `echo ${note.after} > ${note.file}`))
  await step('put the original on standby', () => client().instances.standby('original'))
  await step('restore the original to the snapshot', () => client().instances.restoreSnapshot('original', snapshot.id))
  const restored = await run('original', `cat ${note.file}`)
  if (restored !== note.before)
    throw new Error(`the restored file says ${JSON.stringify(restored)} instead of ${JSON.stringify(note.before)}`)
  console.log(`    its file says again: ${restored}\n`)
  await world.show(['ps', '-a'])
  await world.show(['snapshot', 'list'])
}
