import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { unreadableUsing } from './uses.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'hypeman-uses-'))
after(() => rm(root, { recursive: true }))

test('a volume that is named by what can not be read is in use by that, and no other is', async () => {
  const unreadable = async (
    id: string,
    file: string,
    text: string,
  ): Promise<{ id: string; path: string; reason: string; kind: 'instance' }> => {
    await mkdir(path.join(root, id))
    await writeFile(path.join(root, id, file), text)
    return { id, path: path.join(root, id), reason: 'it is cut off', kind: 'instance' }
  }
  const all = [
    await unreadable('instance-1', 'record.json', '{"volumes": [{"volumeId": "vol1"'),
    await unreadable('snapshot-1', 'snapshot.json', '{"instance": {"volumes": [{"volumeId": "vol1"'),
    await unreadable('other', 'record.json', '{'),
    await unreadable('junk', 'nothing', ''),
  ]
  assert.deepEqual(unreadableUsing(all, 'vol1'), ["instance-1, which can't be read", "snapshot-1, which can't be read"])
  assert.deepEqual(unreadableUsing(all, 'vol2'), [])
})
