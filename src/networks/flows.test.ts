// What the kernel tracks of connections: who has connected to which guest, what is over and since when, and that a real kernel's list is understood.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { parseFlows } from './flows.ts'

const remembered = new Map([
  ['TIME_WAIT', 120],
  ['CLOSE', 10],
])
const flow = (state: string, left: number, flags = ''): string =>
  `ipv4     2 tcp      6 ${left} ${state} src=127.0.0.1 dst=127.0.0.1 sport=40000 dport=8080 ${flags}src=10.100.9.7 dst=10.100.0.1 sport=80 dport=40000 [ASSURED] mark=0 use=2`
const endOf = (line: string): unknown => {
  const [found] = parseFlows(line, remembered)
  return found === undefined ? 'none' : found.endedMs
}

test('who was connected to and who has connected are told by both directions', () => {
  assert.deepEqual(parseFlows(`${flow('ESTABLISHED', 431_999)}\n`, remembered), [
    { guest: '10.100.9.7', guestPort: 80, source: '127.0.0.1', sourcePort: 40_000, endedMs: null },
  ])
})

test('a connection is open until both sides are done; of one that is over the time since then is known', () => {
  for (const state of ['SYN_RECV', 'ESTABLISHED', 'FIN_WAIT', 'CLOSE_WAIT', 'LAST_ACK']) assert.equal(endOf(flow(state, 60)), null, state)
  assert.deepEqual([endOf(flow('TIME_WAIT', 119)), endOf(flow('TIME_WAIT', 500)), endOf(flow('CLOSE', 7))], [1_000, 0, 3_000])
})

test('one that nobody has answered, one of another protocol, and what is no line are none', () => {
  const lines = [
    flow('SYN_SENT', 100, '[UNREPLIED] '),
    flow('ESTABLISHED', 100).replace('tcp      6', 'udp      17'),
    flow('ESTABLISHED', 100).replace('ipv4     2', 'ipv6     10'),
    '',
  ]
  assert.deepEqual(parseFlows(lines.join('\n'), remembered), [])
  fc.assert(fc.property(fc.string(), (text) => Array.isArray(parseFlows(text, remembered))))
})
