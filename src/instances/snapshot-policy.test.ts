import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { defaultLevels } from '../api/schemas/compression.ts'
import { snapshotPolicy } from '../api/schemas/snapshot-policy.ts'
import { snapshotPolicyOf, snapshotPolicyViewOf, standbyCompressionOf, type SnapshotPolicy } from './snapshot-policy.ts'

const compression = fc
  .record({ enabled: fc.boolean(), algorithm: fc.option(fc.constantFrom('zstd', 'lz4'), { nil: undefined }) })
  .chain((one) => fc.option(fc.integer({ min: 1, max: 9 }), { nil: undefined }).map((level) => ({ ...one, level })))

const policy = fc.option(
  fc.record({
    compression: fc.option(
      fc.record({
        enabled: fc.boolean(),
        algorithm: fc.constantFrom('zstd' as const, 'lz4' as const),
        level: fc.integer({ min: 1, max: 9 }),
      }),
      { nil: null },
    ),
    standbyDelayMs: fc.option(fc.nat(10_000_000), { nil: null }),
  }),
  { nil: null },
)

test('what a standby asks for goes before the policy, and that before what the server usually does; each of setting and delay by itself, and nothing is compressed that nobody asked for', () => {
  fc.assert(
    fc.property(
      policy,
      fc.option(fc.record({ algorithm: fc.constantFrom('zstd' as const, 'lz4' as const), level: fc.integer({ min: 1, max: 9 }) }), {
        nil: undefined,
      }),
      fc.option(compression, { nil: undefined }),
      fc.option(fc.nat(10_000_000), { nil: undefined }),
      (rule, usual, asked, delayMs) => {
        const found = standbyCompressionOf(rule, usual, { compression: asked, delayMs }, 1_000)
        const wanted = asked ?? rule?.compression ?? { enabled: usual !== undefined, ...usual }
        assert.equal(found !== null, wanted.enabled)
        if (found === null) return
        const algorithm = 'algorithm' in wanted && wanted.algorithm !== undefined ? wanted.algorithm : 'zstd'
        assert.equal(found.algorithm, algorithm)
        assert.equal(found.level, ('level' in wanted ? wanted.level : undefined) ?? defaultLevels[algorithm])
        assert.equal(Date.parse(found.notBefore), 1_000 + (delayMs ?? rule?.standbyDelayMs ?? 0))
        assert.deepEqual([found.files, found.kept], [[], []])
      },
    ),
  )
})

test('a policy as it is shown is the same policy when it is asked for; one that says nothing is none', () => {
  fc.assert(
    fc.property(policy, (rule) => {
      const { snapshot_policy: shown } = snapshotPolicyViewOf(rule)
      const isEmpty = rule === null || (rule.compression === null && rule.standbyDelayMs === null)
      const again: SnapshotPolicy | null = snapshotPolicyOf(snapshotPolicy.parse(shown ?? {}))
      assert.deepEqual(again, isEmpty ? null : { ...rule, compression: rule.compression === null ? null : { ...rule.compression } })
    }),
  )
})
