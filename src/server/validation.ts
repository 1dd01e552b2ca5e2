// Failed checks of a request as one error for the caller: the code that the check names, and the path of the field.

import type { FastifySchemaCompiler, FastifySerializerCompiler } from 'fastify'
import { z } from 'zod'
import { catalogue, HypemanError, type ErrorCode, type ErrorDetail } from '../api/errors.ts'

type Issue = z.core.$ZodIssue

/** Checks a part of a request with the zod schema of its route. */
export const checkPart: FastifySchemaCompiler<z.ZodType> =
  ({ schema }) =>
  (part) => {
    const { success, data, error } = schema.safeParse(part, { reportInput: true })
    return success ? { value: data } : { error: new InvalidPart(error.issues) }
  }

/**
 * Writes an answer without holding it to its schema once more. For long lists: their parts were checked when they were read from disk, and checking
 * 10 000 of them again took as long as everything else together (30 of 60 ms, November 2026).
 */
export const writePlainly: FastifySerializerCompiler<unknown> = () => (answer) => JSON.stringify(answer)

/** Takes any request: for operations that are described and answer everything alike. */
export const takeAsItIs: FastifySchemaCompiler<unknown> = () => (part) => ({ value: part })

/** An error of zod that remembers which part of the request it is about. */
export class InvalidPart extends Error {
  readonly issues: readonly Issue[]

  constructor(issues: readonly Issue[]) {
    super('the request does not fit its schema')
    this.issues = issues
  }
}

/** The error for a request whose validation failed. `otherCode` is for checks that name no code of their own. */
export function invalidRequest(error: InvalidPart, otherCode: ErrorCode = 'invalid_request'): HypemanError {
  const part = 'validationContext' in error && error.validationContext === 'querystring' ? 'query parameter ' : ''
  const details = error.issues.flatMap((issue) => detailsOf(issue, part, otherCode))
  const [first] = details
  return new HypemanError(first?.code ?? otherCode, first?.message ?? error.message, {
    cause: error,
    details: details.length > 1 ? details : [],
  })
}

type Detail = ErrorDetail & { readonly code: ErrorCode }

function detailsOf(issue: Issue, part: string, otherCode: ErrorCode): Detail[] {
  const branch = issue.code === 'invalid_union' ? closestBranch(issue.errors) : undefined
  if (branch !== undefined) return branch.flatMap((inner) => detailsOf({ ...inner, path: [...issue.path, ...inner.path] }, part, otherCode))
  const field = issue.path.map(String).join('.')
  return [
    {
      code: namedCode(issue) ?? otherCode,
      message: `${field === '' ? 'the request' : `${part}${field}`}: ${reasonOf(issue)}`,
    },
  ]
}

/** Of the ways in which a value may be right, the one that it came closest to: the one whose check names a code, or else the last. */
function closestBranch(branches: readonly (readonly Issue[])[]): readonly Issue[] | undefined {
  return branches.find((issues) => issues.some((issue) => namedCode(issue) !== undefined)) ?? branches.at(-1)
}

const named = z.object({ code: z.string() })

function namedCode(issue: Issue): ErrorCode | undefined {
  const code = issue.code === 'custom' ? named.safeParse(issue.params).data?.code : undefined
  return code !== undefined && code in catalogue ? (code as ErrorCode) : undefined
}

function reasonOf(issue: Issue): string {
  if (issue.code === 'invalid_type' && issue.input === undefined)
    return `it is required, and ${/^[aeio]/.test(issue.expected) ? 'an' : 'a'} ${issue.expected}`
  return issue.message.charAt(0).toLowerCase() + issue.message.slice(1)
}
