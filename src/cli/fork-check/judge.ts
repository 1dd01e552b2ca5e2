// What the observations of all forks mean: which values two of them have in common, and whether that is a fault. Pure.

import { identityOf, isLoopback, type Observation } from './probes.ts'

export interface Verdict {
  readonly probe: string
  /** What it is, for people. */
  readonly title: string
  /** Forks that had a value. */
  readonly forks: number
  readonly distinct: number
  /** `distinct`: no two forks share a value. `collision`, `wrong`: a fault. `same`: shared, and meant to be. `told`: for information. `absent`: not in this image. */
  readonly verdict: 'distinct' | 'collision' | 'wrong' | 'same' | 'told' | 'absent'
  readonly note?: string
  /** Values that several forks have, with the forks. */
  readonly shared?: readonly { readonly value: string; readonly forks: readonly string[] }[]
}

/** A clock that is further away for certain is wrong, in milliseconds. */
const CLOCK_LIMIT_MS = 1_000

/** Probes of which each fork must have values of its own. Those with `tools` are only there if the image has the program; `always`: each Linux has them. */
const own: readonly { readonly probe: string; readonly title: string; readonly tools?: string; readonly always?: true }[] = [
  { probe: 'urandom', title: 'kernel: /dev/urandom', always: true },
  { probe: 'random', title: 'kernel: /dev/random', always: true },
  { probe: 'getrandom', title: 'kernel: getrandom(2)', tools: 'python3 or perl' },
  { probe: 'uuid', title: 'kernel: random/uuid', always: true },
  { probe: 'python-random', title: 'Python: random', tools: 'python3' },
  { probe: 'python-uuid', title: 'Python: uuid4', tools: 'python3 with the module uuid' },
  { probe: 'node-bytes', title: 'Node: randomBytes', tools: 'node' },
  { probe: 'node-random', title: 'Node: Math.random', tools: 'node' },
  { probe: 'perl-random', title: 'Perl: rand', tools: 'perl' },
  { probe: 'openssl', title: 'OpenSSL: rand', tools: 'openssl' },
  { probe: 'boot-id', title: 'boot id (getrandom, by the guest agent)' },
  { probe: 'machine-id', title: 'machine id' },
  { probe: 'hostname', title: 'host name' },
  { probe: 'mac', title: 'MAC address' },
  { probe: 'ssh-host-key', title: 'SSH host keys' },
]

export function judge(observations: readonly Observation[]): readonly Verdict[] {
  return [
    ...own.map((probe) => whole(judgeOwn(probe, observations), observations)),
    whole(judgeInstanceId(observations), observations),
    whole(judgeAddress(observations), observations),
    judgeConnections(observations),
    whole(judgeClock(observations), observations),
    whole(judgeGeneration(observations), observations),
    ...judgeHooks(observations),
  ]
}

export function isFault({ verdict }: Verdict): boolean {
  return verdict === 'collision' || verdict === 'wrong'
}

/** What some forks had a value of, the others must have, too: they have the same image. */
function whole(verdict: Verdict, { length }: readonly Observation[]): Verdict {
  if (isFault(verdict) || verdict.forks === 0 || verdict.forks === length) return verdict
  return { ...verdict, verdict: 'wrong', note: `${length - verdict.forks} forks have none` }
}

interface Held {
  readonly value: string
  readonly by: Observation
}

function judgeOwn({ probe, title, tools, always }: (typeof own)[number], observations: readonly Observation[]): Verdict {
  const held = heldOf(observations, probe)
  if (held.length > 0) return compare({ probe, title }, held)
  if (always === true) return missing({ probe, title }, observations)
  return absent({ probe, title }, tools === undefined ? undefined : `the image has no ${tools}`)
}

function judgeInstanceId(observations: readonly Observation[]): Verdict {
  const what = { probe: 'instance-id', title: 'instance id' }
  const told = heldOf(observations, 'identity').flatMap(({ value, by }) => {
    const { instanceId } = identityOf(value)
    return instanceId === undefined ? [] : [{ value: instanceId, by }]
  })
  if (told.length === 0) return missing(what, observations)
  const wrong = told.filter(({ value, by }) => value !== by.instance.id)
  return wrong.length === 0 ? compare(what, told) : fault(what, told, `${wrong.length} forks take themselves for another instance`)
}

/** Addresses may be used again when their fork is gone, and every guest behind a network of its own has the same one. */
function judgeAddress(observations: readonly Observation[]): Verdict {
  const what = { probe: 'ip', title: 'IP address' }
  const held = heldOf(observations, 'ip').filter(({ value }) => !value.startsWith('127.'))
  if (held.length === 0) return absent(what)
  const wrong = observations.filter(({ name, instance }) => {
    const address = instance.network?.ip ?? undefined
    return address !== undefined && !held.some((one) => one.by.name === name && one.value === address)
  })
  if (wrong.length > 0) return fault(what, held, `${wrong.length} forks do not have the address that the server gave them`)
  if (haveOneAddress(observations))
    return { ...compare(what, held), verdict: 'same', note: 'by design: each guest is behind a network of its own' }
  return compare(what, held, overlaps)
}

function judgeConnections(observations: readonly Observation[]): Verdict {
  const what = { probe: 'tcp', title: 'inherited TCP connections' }
  const held = heldOf(observations, 'tcp').filter(({ value }) => !isLoopback(value))
  if (held.length === 0) return { ...what, forks: observations.length, distinct: 0, verdict: 'distinct', note: 'none is established' }
  const verdict = compare(what, held)
  if (verdict.verdict !== 'collision' || !haveOneAddress(observations)) return verdict
  // The kernel picks a port by a hash whose key is in its memory.
  const note = `${sharedWords(verdict.shared ?? [])}: inherited, or a program of each has connected again, which looks the same where all have one address`
  return { ...verdict, verdict: 'told', note }
}

/** By design: each is behind a network of its own. */
function haveOneAddress(observations: readonly Observation[]): boolean {
  return observations.length > 1 && new Set(observations.map(({ instance }) => instance.network?.ip)).size === 1
}

function judgeClock(observations: readonly Observation[]): Verdict {
  const what = { probe: 'clock', title: 'clock' }
  const offsets = observations.flatMap((one) => clockOffsetMs(one) ?? [])
  if (offsets.length === 0) return absent(what)
  const most = Math.max(...offsets.map(Math.abs))
  const note = most === 0 ? 'as here, as far as can be told' : `up to ${Math.round(most)} ms off for certain`
  return { ...what, forks: offsets.length, distinct: new Set(offsets).size, verdict: most > CLOCK_LIMIT_MS ? 'wrong' : 'told', note }
}

/** How far a guest's clock is from this machine's at the least, in milliseconds: what the question took, and fractions that `date` does not tell, are in its favour. */
export function clockOffsetMs({ findings, asked, told }: Pick<Observation, 'findings' | 'asked' | 'told'>): number | undefined {
  const [, seconds, fraction] = /^(\d+)(?:\.(\d+))?/.exec(findings.find(({ probe }) => probe === 'clock')?.value ?? '') ?? []
  if (seconds === undefined) return undefined
  const earliest = Number(`${seconds}.${fraction ?? 0}`) * 1000
  const latest = fraction === undefined ? earliest + 1000 : earliest
  if (earliest > told) return earliest - told
  return latest < asked ? latest - asked : 0
}

function judgeGeneration(observations: readonly Observation[]): Verdict {
  const what = { probe: 'generation', title: 'generation' }
  const numbers = heldOf(observations, 'identity').flatMap(({ value }) => identityOf(value).generation ?? [])
  if (numbers.length === 0) return missing(what, observations)
  const distinct = new Set(numbers)
  const note = `${[...distinct].toSorted((one, other) => one - other).join(', ')}: one more than that of the snapshot, in each fork`
  return { ...what, forks: numbers.length, distinct: distinct.size, verdict: 'told', note }
}

function judgeHooks(observations: readonly Observation[]): Verdict[] {
  const names = new Set(
    observations.flatMap(({ findings }) => findings.map(({ probe }) => probe)).filter((probe) => probe.startsWith('hook ')),
  )
  return [...names].toSorted().map((probe) => {
    const file = probe.slice('hook '.length)
    const verdict = compare({ probe, title: `image: ${file}` }, heldOf(observations, probe))
    if (!file.startsWith('info-')) return whole(verdict, observations)
    const note = verdict.verdict === 'collision' ? 'left to programs: what was seeded before the snapshot goes on the same' : undefined
    return { ...verdict, verdict: 'told', ...(note === undefined ? {} : { note }) }
  })
}

function heldOf(observations: readonly Observation[], probe: string): Held[] {
  return observations.flatMap((by) =>
    by.findings.filter((one) => one.probe === probe && one.value !== '').map(({ value }) => ({ value, by })),
  )
}

/** `together`: whether two forks may not have the same; by default no two may. */
function compare(
  what: Pick<Verdict, 'probe' | 'title'>,
  held: readonly Held[],
  together: (one: Observation, other: Observation) => boolean = () => true,
): Verdict {
  const shared = [...Map.groupBy(held, ({ value }) => value)].flatMap(([value, holders]) => {
    const forks = [...new Set(holders.map(({ by }) => by))]
    const clash = forks.filter((one) => forks.some((other) => other !== one && together(one, other)))
    return clash.length === 0 ? [] : [{ value, forks: clash.map(({ name }) => name) }]
  })
  const verdict = shared.length === 0 ? 'distinct' : 'collision'
  return { ...what, ...counted(held), verdict, ...(shared.length === 0 ? {} : { shared, note: sharedWords(shared) }) }
}

function overlaps(one: Observation, other: Observation): boolean {
  return one.from <= other.to && other.from <= one.to
}

function sharedWords(shared: NonNullable<Verdict['shared']>): string {
  const most = Math.max(...shared.map(({ forks }) => forks.length))
  return shared.length === 1 ? `${most} forks have the same` : `${shared.length} values are in several forks, one of them in ${most}`
}

function fault(what: Pick<Verdict, 'probe' | 'title'>, held: readonly Held[], note: string): Verdict {
  return { ...what, ...counted(held), verdict: 'wrong', note }
}

/** Of what every fork has to have. */
function missing(what: Pick<Verdict, 'probe' | 'title'>, { length }: readonly Observation[]): Verdict {
  return length === 0 ? absent(what) : fault(what, [], 'no fork has any')
}

function absent(what: Pick<Verdict, 'probe' | 'title'>, note?: string): Verdict {
  return { ...what, forks: 0, distinct: 0, verdict: 'absent', ...(note === undefined ? {} : { note }) }
}

function counted(held: readonly Held[]): Pick<Verdict, 'forks' | 'distinct'> {
  return { forks: new Set(held.map(({ by }) => by)).size, distinct: new Set(held.map(({ value }) => value)).size }
}
