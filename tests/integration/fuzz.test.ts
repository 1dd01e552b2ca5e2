// Requests out of the API's own description, most of them wrong, against a real server on stand-in machines: every answer is one that is documented.
// `npm run fuzz` does the same for longer.

import assert from 'node:assert/strict'
import { randomInt } from 'node:crypto'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { after, test } from 'node:test'
import fc from 'fast-check'
import { z } from 'zod'
import { firstFrames, sendFirstFrame } from '../support/fuzz/first-frames.ts'
import { errorSchema } from '../support/fuzz/requests.ts'
import { answersOf, fuzz, summary } from '../support/fuzz/run.ts'
import { scaled } from '../support/scale.ts'
import { standIn, startStandInServer } from '../support/stand-in-hypervisor/server.ts'

const server = await startStandInServer()
after(() => server[Symbol.asyncDispose]())

/** The server is there, and none of its answers was for a fault of its own. */
async function assertUnharmed(): Promise<void> {
  assert.equal((await server.client.health.check()).status, 'ok')
  const line = z.object({ level: z.number() })
  const faults = (await server.log()).split('\n').filter((one) => one.startsWith('{') && line.parse(JSON.parse(one)).level >= 50)
  assert.deepEqual(faults, [])
}

for (const [which, seed] of [
  ['the same requests each time', 63],
  ['other requests each time', randomInt(2 ** 31)],
] as const)
  test(`every answer is documented: ${which} (seed ${seed})`, async (context) => {
    for (const { id } of await server.client.instances.list()) await server.client.instances.delete(id)
    const report = await fuzz(server, { requests: scaled({ part: 400, whole: 4000 }), seed })
    context.diagnostic(summary(report).replaceAll('\n', ' '))
    assert.deepEqual(report.findings, [])
    // Otherwise it would have been about nothing: some three of ten requests succeed, most of the others are refused.
    assert.ok(report.succeeded.size > 12)
    assert.ok(answersOf(report, 2) > 30 && answersOf(report, 4) > 100, summary(report))
    await assertUnharmed()
  })

test('malformed first frames of exec and copy are refused in words, and no first frame holds a connection', async () => {
  const { id } = await server.client.instances.create({ name: 'streams', ...standIn })
  assert.equal((await server.client.instances.wait(id, { state: 'Running' })).state, 'Running')
  const property = fc.asyncProperty(fc.constantFrom('exec', 'cp'), firstFrames, async (stream, frame) => {
    assert.deepEqual(
      await sendFirstFrame(server, `/instances/${id}/${stream}`, frame),
      [],
      `${stream}: ${String(frame.data).slice(0, 500)}`,
    )
  })
  await fc.assert(property, { numRuns: scaled({ part: 100, whole: 1000 }), seed: 63, endOnFailure: true })
  await fc.assert(property, { numRuns: scaled({ part: 50, whole: 1000 }), endOnFailure: true })
  await assertUnharmed()
})

test('what is no request at all is answered like an error of the API, with a request id', async () => {
  const { hostname, port } = new URL(server.url)
  for (const [sent, status, code] of [
    ['nonsense\r\n\r\n', 400, 'invalid_request'],
    ['GET /health HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n', 400, 'invalid_request'],
    [`GET /health?${'x'.repeat(20_000)} HTTP/1.1\r\nhost: x\r\n\r\n`, 413, 'payload_too_large'],
    ['GET /instances/%zz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n', 400, 'invalid_request'],
  ] as const) {
    const socket = connect(Number(port), hostname)
    socket.end(sent)
    const [head = '', body = ''] = (await text(socket)).split('\r\n\r\n')
    assert.match(head, new RegExp(`^HTTP/1.1 ${status} `), sent.slice(0, 60))
    assert.match(head, /^x-request-id: [0-9a-f]{16}$/im, head)
    assert.equal(errorSchema.parse(JSON.parse(body)).code, code)
  }
  await assertUnharmed()
})
