// Holds our schemas against the official client, operation by operation: the compiler first, then the table against the client's sources and our routes.
// Ends with the line `operations: N of M`.

import { spawnSync } from 'node:child_process'
import { compareWithClient } from '../tests/support/wire/compare.ts'

const types = spawnSync('tsc', ['--noEmit'], { stdio: 'inherit' })
if (types.error !== undefined) throw types.error
const { wanted, good, complaints } = await compareWithClient()
for (const complaint of complaints) console.log(complaint)
if (types.status !== 0) console.log('The type check failed: its errors are above.')
process.exitCode = types.status === 0 && complaints.length === 0 ? 0 : 1
console.log(`operations: ${types.status === 0 ? good : 0} of ${wanted}`)
