// The reference of the API in a real browser.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { z } from 'zod'
import { openBrowser } from '../support/browser.ts'
import { serveFakes } from '../support/http-server.ts'

const description = z.object({ paths: z.record(z.string(), z.record(z.string(), z.object({ operationId: z.string() }))) })

test('/docs shows every operation in a browser, without a token and without asking anybody else', async () => {
  await using server = await serveFakes()
  const { paths } = description.parse(await (await fetch(`${server.url}/openapi.json`)).json())
  const operations = Object.entries(paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, { operationId }]) => `${method.toUpperCase()} ${path} ${operationId}`),
  )
  await using page = await openBrowser()
  await page.open(`${server.url}/docs`)
  await page.until(`document.querySelectorAll('.opblock').length >= ${operations.length}`)
  const shown = await page.evaluate(`[...document.querySelectorAll('.opblock')].map((block) => [
    block.querySelector('.opblock-summary-method').textContent,
    block.querySelector('.opblock-summary-path').dataset.path,
    block.querySelector('.opblock-summary-operation-id').textContent,
  ].join(' '))`)
  assert.deepEqual(z.array(z.string()).parse(shown).toSorted(), operations.toSorted())

  // An operation opens, and shows what it takes.
  await page.evaluate(`document.querySelector('[id$="-createInstance"] .opblock-summary-control').click()`)
  await page.until(`document.querySelector('[id$="-createInstance"] .opblock-body')?.textContent.includes('application/json')`)

  assert.ok(page.requested.length > 4)
  for (const url of page.requested) assert.ok(url.startsWith(`${server.url}/docs`) || url.startsWith('data:'), url)
  assert.deepEqual(page.errors, [])

  // If it did ask somebody else, that would have been seen, and refused.
  const refused = await page.evaluate(`fetch('http://192.0.2.1/').then(() => 'answered', () => 'refused')`)
  assert.equal(refused, 'refused')
  assert.match(page.errors.join('\n'), /192\.0\.2\.1.*Content Security Policy/)
})

test('the pages of the reference carry a content security policy that names no other place', async () => {
  await using server = await serveFakes()
  for (const path of ['/docs', '/docs/', '/docs/static/swagger-ui-bundle.js', '/docs/json']) {
    const answer = await fetch(`${server.url}${path}`)
    assert.equal(answer.status, 200, path)
    assert.ok((await answer.text()).length > 100, path)
    const policy = answer.headers.get('content-security-policy') ?? ''
    assert.ok(policy.includes("default-src 'none'") && policy.includes("connect-src 'self'"), `${path}: ${policy}`)
    assert.doesNotMatch(policy, /https?:|unsafe|\*/, path)
  }
  for (const path of ['/docs/static/%2e%2e%2fpackage.json', '/docs/static/..%2findex.js'])
    assert.equal((await fetch(`${server.url}${path}`)).status, 404, path)
})
