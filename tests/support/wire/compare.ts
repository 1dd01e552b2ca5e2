// The table of operations held against the client's sources and our own description of the API.

import { serveFakes } from '../http-server.ts'
import { clientOperations, operationName } from './client.ts'
import { describedOperations, describes, describesQuery, type Described } from './described.ts'
import type { Row } from './fits.ts'
import { operations } from './operations.ts'

export interface Comparison {
  /** How many operations the client has. */
  readonly wanted: number
  /** How many of them have a row, and a route that is what the row says. */
  readonly good: number
  /** One sentence for each thing that is not as it should be. */
  readonly complaints: readonly string[]
}

export async function compareWithClient(rows: Readonly<Record<string, Row>> = operations): Promise<Comparison> {
  await using server = await serveFakes()
  const described = describedOperations(await (await fetch(`${server.url}/openapi.json`)).json())
  const wanted = (await clientOperations()).map(({ method, path }) => operationName(method, path))
  const complaints = new Map<string, string[]>()
  for (const [method, row] of Object.entries(rows)) {
    const name = nameOf(row)
    if (complaints.has(name)) complaints.get(name)?.push(`${method}: another row has ${row.at}`)
    else
      complaints.set(
        name,
        complaintsAbout(
          method,
          row,
          described.find((one) => operationName(one.method, one.path) === name),
        ),
      )
  }
  const unknown = [...complaints.keys()].filter((name) => !wanted.includes(name)).map((name) => `the client has no ${name}`)
  const missing = wanted.filter((name) => !complaints.has(name)).map((name) => `no row has ${name}`)
  return {
    wanted: new Set(wanted).size,
    good: wanted.filter((name) => complaints.get(name)?.length === 0).length,
    complaints: [...missing, ...unknown, ...[...complaints.values()].flat()],
  }
}

function nameOf({ at }: Row): string {
  const [method = '', path = ''] = at.split(' ')
  return operationName(method, path)
}

function complaintsAbout(method: string, row: Row, described: Described | undefined): string[] {
  if (row.answer === 'only errors') return described === undefined ? [] : [`${method} is described: give its schemas in the table`]
  if (described === undefined) return [`${method}: our description has no ${row.at}`]
  const { responses, requestBody, parameters } = described
  const [answer] = Object.entries(responses).filter(([status]) => status !== 'default')
  const [media] = Object.values(answer?.[1].content ?? {})
  const [body] = Object.values(requestBody?.content ?? {})
  const isGood = {
    answer: answer?.[0] === '204' ? row.answer.safeParse(null).success : describes(media?.schema, row.answer, 'output'),
    body: row.body === undefined || describes(body?.schema, row.body, 'input'),
    query: row.query === undefined ? !parameters.some((one) => one.in === 'query') : describesQuery(parameters, row.query),
  }
  return Object.entries(isGood).flatMap(([part, good]) =>
    good ? [] : [`${method}: the ${part} of ${row.at} is described otherwise than in the table`],
  )
}
