// Every flow that changes something on disk.

import { hasHostNetwork } from '../../support/host-network.ts'
import * as instances from './instance-scenarios.ts'
import type { Scenario } from './scenario.ts'
import * as pushes from './push-scenarios.ts'
import * as reclaim from './reclaim-scenarios.ts'
import * as schedules from './schedule-scenarios.ts'
import * as sizes from './size-scenarios.ts'
import * as snapshots from './snapshot-scenarios.ts'
import * as stores from './store-scenarios.ts'
import * as volumes from './volume-scenarios.ts'

/** Those that could lose a guest, or what a snapshot holds. */
export const guestScenarios: readonly Scenario[] = [
  ...[instances.create, instances.start, instances.stop, instances.stopAsleep, instances.standby, instances.restore],
  ...[instances.compressStandby, instances.restoreCompressed, instances.stopCompressed, instances.forkCompressed],
  ...[reclaim.takeMemory, reclaim.giveMemory, instances.restart],
  ...(hasHostNetwork ? [instances.createOnTap, instances.restoreOnTap] : []),
  ...[instances.forkRunning, instances.forkStopped, instances.forkAsleep, instances.remove, instances.removeAsleep, instances.update],
  ...[snapshots.snapshotRunning, snapshots.snapshotAsleep, snapshots.snapshotStopped],
  ...[snapshots.compressSnapshot, snapshots.forkCompressed, snapshots.restoreCompressed],
  ...[snapshots.restoreToRunning, snapshots.restoreAsleep, snapshots.restoreStopped, snapshots.restoreElsewhere],
  ...[snapshots.forkToRunning, snapshots.forkToStopped, snapshots.forkCold, snapshots.forkElsewhere, snapshots.removeSnapshot],
]

export const scenarios: readonly Scenario[] = [
  ...guestScenarios,
  ...[sizes.resizeStopped, sizes.growMachine, sizes.growDisk],
  ...[schedules.setSchedule, schedules.deleteSchedule, schedules.runSchedule],
  ...[stores.createVolume, stores.createVolumeFromArchive, stores.deleteVolume],
  ...[volumes.attachVolume, volumes.attachLayered, volumes.detachVolume],
  ...[stores.importImage, stores.pullImage, stores.tagImage, stores.deleteImage, stores.pushImage],
  pushes.pushElsewhere,
]

/** Ends what scenarios keep between them. */
export async function dropShared(): Promise<void> {
  await stores.dropRegistry()
  await stores.dropImages()
}
