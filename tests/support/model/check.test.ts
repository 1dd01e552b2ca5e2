// The judge itself: a history that is as it should be passes, and each way to falsify it is found.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { check } from './check.ts'
import type { Answer, Call, Content, Operation, Said } from './history.ts'

type Asked = readonly [Operation, Answer, first?: true]

/** Calls one after the other, all of one client. */
function history(...asked: readonly Asked[]): Call[] {
  return asked.map(([operation, answer, first], at) => ({
    client: 'c',
    operation,
    answer,
    sent: 2 * at,
    answered: 2 * at + 1,
    ...(first ? { first } : {}),
  }))
}

function done(said: Said = {}): Answer {
  return { outcome: 'done', said }
}

function refused(status: number, code: string, message = ''): Answer {
  return { outcome: 'refused', status, code, message }
}

const instance = 'origin'
const seen = (id: string, state: string): Said => ({ instance: { id, name: id, state } })
const snapshot = { id: 's', name: 'one', kind: 'Standby', source_instance_id: instance } as const
const volumes = [{ volume: 'v', readOnly: true }]
const identity = { instance, hostname: instance, random: 'r1', machineId: 'm1', mac: 'a1' }

const volume: readonly [Operation, Answer] = [{ kind: 'createVolume', volume: 'v' }, done()]
const created: readonly [Operation, Answer] = [{ kind: 'create', name: instance, volumes }, done(seen(instance, 'Initializing'))]
const written: readonly [Operation, Answer] = [{ kind: 'write', instance, to: 'memory', text: 'm' }, done({ before: '' })]
const captured: readonly [Operation, Answer] = [{ kind: 'snapshot', instance, of: 'Standby', name: 'one' }, done({ snapshot })]
const forked: readonly [Operation, Answer] = [
  { kind: 'forkSnapshot', snapshot: 's', name: 'fork', target: undefined },
  done(seen('fork', 'Running')),
]
const beginning = (content: Content): readonly [Operation, Answer, true] => [
  { kind: 'read', instance: 'fork' },
  done({ content: { ...content, identity: { ...identity, instance: 'fork', random: 'r2', machineId: 'm2', mac: 'a2' } } }),
  true,
]
const good = [
  volume,
  created,
  written,
  captured,
  [{ kind: 'read', instance }, done({ content: { memory: 'm', disk: '', identity } })],
  forked,
  beginning({ memory: 'm', disk: '' }),
] as const

test('a history that is as it should be has no faults', () => {
  assert.deepEqual(check(history(...good)), [])
  assert.deepEqual(
    check(
      history(
        ...good,
        [{ kind: 'create', name: 'fork', volumes: [] }, refused(409, 'name_conflict')],
        [{ kind: 'snapshot', instance, of: 'Standby', name: 'one' }, refused(409, 'conflict', 'the snapshot s has the name one already')],
        [{ kind: 'snapshot', instance, of: 'Stopped', name: '' }, refused(409, 'conflict')],
        [{ kind: 'removeVolume', volume: 'v' }, refused(409, 'conflict', 'the volume v is in use')],
        [{ kind: 'list' }, done({ instances: [instance, 'fork'].map((id) => ({ id, name: id, state: 'Running' })) })],
        [{ kind: 'remove', instance }, done()],
        [{ kind: 'get', instance }, refused(404, 'not_found', 'there is no instance origin')],
        [{ kind: 'restoreSnapshot', instance, snapshot: 's', target: undefined }, refused(404, 'not_found', 'there is no instance origin')],
        [{ kind: 'listSnapshots' }, done({ snapshots: [snapshot] })],
      ),
    ),
    [],
  )
})

const falsified: Readonly<Record<string, readonly Asked[]>> = {
  'a fault of the server': [...good, [{ kind: 'get', instance }, refused(500, 'internal_error')]],
  'an operation that waited too long': [...good, [{ kind: 'stop', instance }, refused(409, 'busy')]],
  'a command that was lost although its guest went on': [
    ...good,
    [
      { kind: 'read', instance },
      { outcome: 'lost', message: '' },
    ],
  ],
  'a fork with the content of another time': [...good.slice(0, -1), beginning({ memory: '', disk: '' })],
  'forks of one snapshot that begin differently': [
    ...good,
    [{ kind: 'remove', instance: 'fork' }, done()],
    [forked[0], done(seen('other', 'Running'))],
    [{ kind: 'read', instance: 'other' }, done({ content: { memory: 'm', disk: 'd' } }), true],
  ],
  'a write that was lost': [...good, [{ kind: 'write', instance, to: 'memory', text: 'n' }, done({ before: '' })]],
  'a state that is refused though it allows it': [...good, [{ kind: 'standby', instance }, refused(409, 'invalid_state')]],
  'a state that allows what it must not': [...good, [{ kind: 'start', instance }, done(seen(instance, 'Running'))]],
  'a state that nobody brought about': [...good, [{ kind: 'get', instance }, done(seen(instance, 'Stopped'))]],
  'an instance that is gone by itself': [...good, [{ kind: 'get', instance }, refused(404, 'not_found', 'there is no instance origin')]],
  'an instance that comes back': [
    ...good,
    [{ kind: 'remove', instance }, done()],
    [{ kind: 'get', instance }, done(seen(instance, 'Running'))],
  ],
  'an instance that is missing in a list': [
    ...good,
    [{ kind: 'list' }, done({ instances: [{ id: 'fork', name: 'fork', state: 'Running' }] })],
  ],
  'an instance in a list that nobody made': [
    ...good,
    [{ kind: 'list' }, done({ instances: [instance, 'fork', 'ghost'].map((id) => ({ id, name: id, state: 'Running' })) })],
  ],
  'two instances of one name': [
    ...good,
    [{ kind: 'create', name: instance, volumes: [] }, done({ instance: { id: 'x', name: instance, state: 'Running' } })],
  ],
  'a name that stays taken': [
    ...good,
    [{ kind: 'remove', instance }, done()],
    [{ kind: 'create', name: instance, volumes: [] }, refused(409, 'name_conflict')],
  ],
  'two snapshots of one name': [...good, [captured[0], done({ snapshot: { ...snapshot, id: 't' } })]],
  'a snapshot that is gone by itself': [...good, [{ kind: 'listSnapshots' }, done({ snapshots: [] })]],
  'a snapshot that is restored to another instance': [
    ...good,
    [{ kind: 'stop', instance: 'fork' }, done(seen('fork', 'Stopped'))],
    [{ kind: 'restoreSnapshot', instance: 'fork', snapshot: 's', target: undefined }, done(seen('fork', 'Running'))],
  ],
  'a second user of a volume that one writes to': [
    ...good,
    [
      { kind: 'create', name: 'writer', volumes: [{ volume: 'v', readOnly: false }] },
      done({ instance: { id: 'w', name: 'writer', state: 'Running' } }),
    ],
  ],
  'a snapshot of a guest that writes to a volume': [
    [{ kind: 'createVolume', volume: 'w' }, done()],
    [{ kind: 'create', name: instance, volumes: [{ volume: 'w', readOnly: false }] }, done(seen(instance, 'Running'))],
    captured,
  ],
  'a volume that is deleted though a snapshot needs it': [
    ...good,
    [{ kind: 'remove', instance }, done()],
    [{ kind: 'remove', instance: 'fork' }, done()],
    [{ kind: 'removeVolume', volume: 'v' }, done()],
  ],
  'two guests with the same random bytes': [
    ...good,
    [{ kind: 'read', instance: 'fork' }, done({ content: { memory: 'm', disk: '', identity: { ...identity, instance: 'fork' } } })],
  ],
}

for (const [what, calls] of Object.entries(falsified))
  test(`${what} is found`, () => {
    assert.notDeepEqual(check(history(...calls)), [])
  })
