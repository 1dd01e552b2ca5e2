// The stories that are told: what happens to a server while its disk is on record.

import type { Story } from './story.ts'

/** Every operation that answers with a promise, on stand-ins. `archive` is a small image in an OCI archive. */
export async function everything(story: Story, archive: string): Promise<void> {
  await story.stock.importImage('small:1', archive)
  await story.stock.push('team/app', archive)
  await story.stock.createVolume('empty')
  await story.stock.fillVolume('full', 'word')
  await story.create('one')
  await story.write('one', { memory: 'm1', disk: 'd1' })
  await story.snapshot('one', 'warm', 'Standby')
  await story.snapshot('one', 'unsynced', 'Standby', { memory: 'm2', disk: 'd2' })
  await story.standby('one', { memory: 'm3', disk: 'd3' })
  await story.snapshot('one', 'resting', 'Standby')
  await story.restore('one')
  await story.standby('one')
  await story.restore('one')
  await story.stop('one', { memory: 'm4', disk: 'd4' })
  await story.snapshot('one', 'cold', 'Stopped')
  await story.start('one')
  await story.write('one', { memory: 'm5', disk: 'd5' })
  await story.fork('warm', 'two', 'Running')
  await story.fork('warm', 'three', 'Standby')
  await story.fork('cold', 'four', 'Stopped')
  await story.attach('four', 'full')
  await story.attach('four', 'empty', { overlay: true, overlay_size: '32MB' })
  await story.forkRunning('one', 'five')
  await story.write('two', { memory: 'm6', disk: 'd6' })
  await story.expire('two', '2099-01-01T00:00:00.000Z')
  await story.standby('one')
  await story.breakRestore('one', 'warm', 'snapshot.restore/swap@after')
  await story.breakRestore('one', 'warm', 'snapshot.restore/load@after')
  await story.restoreInPlace('one', 'warm', 'Running')
  await story.stop('one', { memory: 'm7', disk: 'd7' })
  await story.restoreInPlace('one', 'resting', 'Standby')
  await story.restoreInPlace('one', 'cold', 'Stopped')
  await story.deleteSnapshot('unsynced')
  await story.deleteSnapshot('resting')
  await story.deleteInstance('five')
  await story.deleteInstance('three')
  await story.detach('four', 'empty')
  await story.stock.deleteVolume('empty')
  await story.stock.deleteImage('small:1')
}

/** What a driver has to keep, with few machines. */
export async function essentials(story: Story): Promise<void> {
  await briefly(story)
  await story.restore('one')
  await story.fork('warm', 'two', 'Running')
  await story.stop('one')
  await story.stock.fillVolume('full', 'word')
  await story.attach('one', 'full', { overlay: true, overlay_size: '32MB' })
  await story.restoreInPlace('one', 'warm', 'Running')
}

/** A snapshot and a standby. */
export async function briefly(story: Story): Promise<void> {
  await story.create('one')
  await story.write('one', { memory: 'm1', disk: 'd1' })
  await story.snapshot('one', 'warm', 'Standby')
  await story.write('one', { memory: 'm2', disk: 'd2' })
  await story.standby('one')
}
