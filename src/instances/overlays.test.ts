// Layers over volumes: which part of the system disk is whose, and that the guest is told the number of just that part.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { layerPartOf, layerSizesOf, systemPartsOf, withLayers } from './overlays.ts'

const MIB = 1024 ** 2

test('without layers the system disk is one file system', () => {
  const volumes = [{ volumeId: 'a', mountPath: '/a', readOnly: true, overlay: null }]
  assert.deepEqual(systemPartsOf({ overlayBytes: 1024 * MIB, volumes }), [])
  assert.deepEqual(
    volumes.map((volume) => layerPartOf(volumes, volume)),
    [null],
  )
})

test("the first part is the system's own, as long as its file system", () => {
  const overlay = { offsetBytes: 101 * MIB, sizeBytes: 16 * MIB }
  const volumes = [{ volumeId: 'a', mountPath: '/a', readOnly: true, overlay }]
  assert.deepEqual(systemPartsOf({ overlayBytes: 100 * MIB + 700, volumes }), [{ offsetBytes: 0, sizeBytes: 100 * MIB }, overlay])
})

test('whichever volumes have a layer, each is given its own part, and the guest finds that under its number', () => {
  const layers = fc.array(fc.option(fc.integer({ min: 16, max: 4096 })), { maxLength: 20 })
  fc.assert(
    fc.property(layers, (sizes) => {
      const wanted = sizes.map((size, index) => ({ volumeId: `v${index}`, mountPath: `/${index}`, readOnly: true, layerBytes: size }))
      const parts = layerSizesOf(wanted).map((sizeBytes, index) => ({ offsetBytes: (index + 1) * 8192, sizeBytes }))
      const volumes = withLayers(wanted, parts)
      const divided = systemPartsOf({ overlayBytes: 8192, volumes })
      for (const [index, volume] of volumes.entries()) {
        const number = layerPartOf(volumes, volume)
        assert.equal(volume.overlay?.sizeBytes ?? null, sizes[index])
        assert.deepEqual(number === null ? null : divided[number - 1], volume.overlay)
      }
      assert.equal(new Set(volumes.flatMap(({ overlay }) => overlay?.offsetBytes ?? [])).size, parts.length)
    }),
  )
})
