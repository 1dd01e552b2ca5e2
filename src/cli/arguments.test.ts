// Values that users type: each form that is understood, and that each other is refused with the right form.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { InvalidArgumentError } from 'commander'
import { compression, durationMs, keyValue, longDurationMs, parseEnvFile, publish, seconds, volume, words } from './arguments.ts'
import { nameFromImage } from './names.ts'

test('ports: host and guest, address, protocol, any free port; IPv6 in brackets', () => {
  const tcp = { protocol: 'tcp' }
  assert.deepEqual(publish('8080:80'), [{ ...tcp, guest_port: 80, host_port: 8080 }])
  assert.deepEqual(publish('80'), [{ ...tcp, guest_port: 80, host_port: 0 }])
  assert.deepEqual(publish(':80'), [{ ...tcp, guest_port: 80, host_port: 0 }])
  assert.deepEqual(publish('0.0.0.0:53:53/udp'), [{ protocol: 'udp', guest_port: 53, host_port: 53, host_address: '0.0.0.0' }])
  assert.deepEqual(publish('[::1]:8080:80'), [{ ...tcp, guest_port: 80, host_port: 8080, host_address: '::1' }])
  for (const wrong of ['', 'a:b', '80:', '1:2:3:4', '8080:70000', '8080:0', '80/icmp'])
    assert.throws(() => publish(wrong), InvalidArgumentError, wrong)
})

test('volumes: id and path, read-only, with an overlay', () => {
  assert.deepEqual(volume('data:/srv'), [{ volume_id: 'data', mount_path: '/srv' }])
  assert.deepEqual(volume('data:/srv:ro:overlay=1GB'), [
    { volume_id: 'data', mount_path: '/srv', readonly: true, overlay: true, overlay_size: '1GB' },
  ])
  assert.deepEqual(volume('data:/srv:overlay=1GB'), volume('data:/srv:ro:overlay=1GB'))
  assert.deepEqual(volume('data:/srv:overlay'), volume('data:/srv:overlay=10GB'))
  for (const wrong of ['data', ':/srv', 'data:srv', 'data:/srv:rx', 'data:/srv:overlay=', 'data:/srv:overlays', 'data:/srv:rw:overlay'])
    assert.throws(() => volume(wrong), InvalidArgumentError, wrong)
})

test('pairs, words, durations', () => {
  assert.deepEqual(keyValue('a=b=c', { x: 'y' }), { x: 'y', a: 'b=c' })
  assert.throws(() => keyValue('=x'), InvalidArgumentError)
  assert.deepEqual(words('["a", "b c"]', ['x']), ['x', 'a', 'b c'])
  assert.throws(() => words('[not json'), InvalidArgumentError)
  assert.throws(() => words('[1]'), InvalidArgumentError)
  assert.deepEqual([durationMs('1m30s'), seconds('90'), seconds('1m30s')], [90_000, 90, 90])
  assert.throws(() => durationMs('soon'), InvalidArgumentError)
  assert.deepEqual([longDurationMs('30d'), longDurationMs('36h')], [30 * 86_400_000, 36 * 3_600_000])
  for (const wrong of ['d', '1.5d', '-1d', '1d2h', '99999999999999d'])
    assert.throws(() => longDurationMs(wrong), InvalidArgumentError, wrong)
})

test('env files: comments, blank lines, values from here; a line that is neither is named', () => {
  assert.deepEqual(parseEnvFile('f', '# c\n\n A=1 \r\nB="x"\nHERE\nMISSING\n', { HERE: 'h' }), { A: '1 ', B: '"x"', HERE: 'h' })
  assert.throws(() => parseEnvFile('app.env', 'A=1\nno way\n', {}), /app\.env, line 2: it is neither/)
})

test('names are made of the image so that the server takes them', () => {
  for (const [image, base] of [
    ['docker.io/library/alpine:3.20', 'alpine'],
    ['registry:5000/Team/My_App@sha256:00', 'my-app'],
    [`x/${'long'.repeat(30)}`, 'long'.repeat(14)],
    ['x/___', 'vm'],
  ] as const) {
    const name = nameFromImage(image)
    assert.ok(name.startsWith(base) && name.length <= 63 && /^[a-z0-9]([a-z0-9-]*[a-z0-9])$/.test(name), name)
  }
})

test('a compression is an algorithm with or without a level, or none', () => {
  assert.deepEqual(compression('lz4'), { enabled: true, algorithm: 'lz4' })
  assert.deepEqual(compression('zstd:19'), { enabled: true, algorithm: 'zstd', level: 19 })
  assert.deepEqual(compression('none'), { enabled: false })
  for (const wrong of ['', 'gzip', 'zstd:', 'zstd:x', 'zstd:-1', 'ZSTD', 'none:1'])
    assert.throws(() => compression(wrong), InvalidArgumentError, wrong)
})
