// What becomes of answers of every kind: expected, refused, strange, late, or none at all.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { HypemanError, isHypemanError } from '../../api/errors.ts'
import { vmmAt, VmmError, type Vmm } from './api.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'ch-api-'))
after(() => rm(root, { recursive: true }))
let count = 0

type Answer = (request: IncomingMessage, response: ServerResponse) => void

interface Stage extends AsyncDisposable {
  readonly vmm: Vmm
  readonly socket: string
  readonly gone: AbortController
  readonly asked: string[]
}

/** An API that answers as it is told. */
async function stage(answer: Answer): Promise<Stage> {
  const socket = path.join(root, String((count += 1)))
  const asked: string[] = []
  const server = createServer((request, response) => {
    let body = ''
    request.on('data', (data: Buffer) => (body += data.toString('utf8')))
    request.on('end', () => {
      asked.push(`${request.method} ${request.url} ${body}`.trim())
      answer(request, response)
    })
  })
  server.listen(socket)
  await once(server, 'listening')
  const gone = new AbortController()
  return {
    vmm: vmmAt(socket, gone.signal),
    socket,
    gone,
    asked,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      server.close()
    },
  }
}

const saying =
  (status: number, text = ''): Answer =>
  (_request, response) =>
    response.writeHead(status).end(text)

test('requests are those of the description', async () => {
  await using api = await stage(saying(204))
  await api.vmm.command('pause')
  await api.vmm.snapshot('/some/where', 1_000)
  await api.vmm.restore({ directory: '/some/where', onDemand: true, limitMs: 1_000 })
  await api.vmm.restore({ directory: '/some/where', onDemand: false, limitMs: 1_000 })
  await api.vmm.setBalloon(4096)
  assert.deepEqual(api.asked, [
    'PUT /api/v1/vm.pause',
    'PUT /api/v1/vm.snapshot {"destination_url":"file:///some/where"}',
    'PUT /api/v1/vm.restore {"source_url":"file:///some/where","memory_restore_mode":"OnDemand","resume":false}',
    'PUT /api/v1/vm.restore {"source_url":"file:///some/where","memory_restore_mode":"Copy","resume":false}',
    'PUT /api/v1/vm.resize {"desired_balloon":4096}',
  ])
})

test('the version is that of the build, as --version prints it', async () => {
  await using api = await stage(saying(200, '{"version":"51.1.0","build_version":"v51.1"}'))
  assert.equal(await api.vmm.version(), '51.1')
})

for (const [what, text, words] of [
  [
    'a list of messages',
    '["Error from API","The VM could not be paused","Not running"]',
    'Error from API: The VM could not be paused: Not running',
  ],
  ['text', 'InvalidStateTransition(Created, Paused)\n', 'InvalidStateTransition(Created, Paused)'],
  ['nothing', '', 'it did not say why'],
] as const)
  test(`a refusal that is ${what} is told in its words`, async () => {
    await using api = await stage(saying(500, text))
    await assert.rejects(api.vmm.command('pause'), (error) => {
      assert.ok(error instanceof VmmError)
      assert.equal(error.message, `Cloud Hypervisor refused vm.pause (HTTP 500): ${words}`)
      return true
    })
  })

test('a machine that was not created yet has no state, in the words of any version; another refusal is an error', async () => {
  for (const [status, text] of [
    [404, ''],
    [500, '["Error from API","VM is not created"]'],
    [500, 'VmNotCreated: the VM was not been created'],
  ] as const) {
    await using api = await stage(saying(status, text))
    assert.equal(await api.vmm.info(), undefined, text)
  }
  await using api = await stage(saying(500, 'out of memory'))
  await assert.rejects(api.vmm.info(), /out of memory/)
})

for (const [what, text] of [
  ['no JSON', 'hello <html>'],
  ['of another shape', '{"state":"Flying","config":{}}'],
  ['empty', ''],
] as const)
  test(`an answer that is ${what} is an error that says what to do`, async () => {
    await using api = await stage(saying(200, text))
    await assert.rejects(
      api.vmm.counters(),
      (error) => isHypemanError(error, 'host_unavailable') && /answer to vm.counters can't be understood/.test(error.message),
    )
    await assert.rejects(
      api.vmm.info(),
      (error) =>
        isHypemanError(error, 'host_unavailable') &&
        /answer to vm.info can't be understood .*hypervisor.cloud_hypervisor/.test(error.message),
    )
  })

test('an answer without an end is cut off at its limit', async () => {
  await using api = await stage((_request, response) => {
    // Never ended; as much as the limit and one piece more.
    for (let piece = 0; piece < 9; piece += 1) response.write(Buffer.alloc(1024 ** 2))
  })
  await assert.rejects(api.vmm.info(), (error) => isHypemanError(error, 'host_unavailable') && /larger than/.test(error.message))
})

test('a caller with a limit is answered in time by a process that hangs, and so is one whose process ends', async () => {
  await using api = await stage(() => undefined)
  await assert.rejects(api.vmm.info(AbortSignal.timeout(50)), { name: 'TimeoutError' })
  await assert.rejects(
    api.vmm.snapshot('/x', 50),
    (error) => isHypemanError(error, 'host_unavailable') && /did not answer vm.snapshot within 0.05 s/.test(error.message),
  )
  const asked = api.vmm.info()
  api.gone.abort(new HypemanError('host_unavailable', 'Cloud Hypervisor ended: killed by SIGKILL'))
  await assert.rejects(asked, /ended: killed by SIGKILL/)
  await assert.rejects(api.vmm.info(), /ended: killed by SIGKILL/)
})

test('a connection that breaks is an error that names what was asked', async () => {
  await using api = await stage((request) => request.socket.destroy())
  await assert.rejects(
    api.vmm.command('boot'),
    (error) => isHypemanError(error, 'host_unavailable') && /can't be asked vm.boot/.test(error.message),
  )
})
