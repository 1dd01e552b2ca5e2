// docs/cli.md and the command line say the same, both ways: every command and flag is documented, and everything documented is there.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { commandsOf, ownOptions, referenceFile, renderReference, wholeProgram } from '../../scripts/cli-reference.ts'
import { examples } from '../../src/cli/command.ts'

test('docs/cli.md is what scripts/cli-reference.ts writes', async () => {
  assert.equal(await readFile(referenceFile, 'utf8'), renderReference(await wholeProgram()))
})

test('every command and flag is in docs/cli.md, and every command and flag in docs/cli.md is there', async () => {
  const documented = new Map<string, Set<string>>()
  let section = new Set<string>()
  for (const line of (await readFile(referenceFile, 'utf8')).split('\n')) {
    const heading = /^## (hypeman .+)$/.exec(line)?.[1]
    if (heading !== undefined) documented.set(heading, (section = new Set()))
    const [, cell = ''] = /^\| `(-[^`]*)` \|/.exec(line) ?? []
    for (const [flag] of cell.matchAll(/(?<![\w-])--?[a-zA-Z][\w-]*/g)) section.add(flag)
  }
  const declared = new Map(
    [...commandsOf(await wholeProgram())].map(({ name, command }) => [
      name,
      new Set(ownOptions(command).flatMap((option) => [option.short, option.long].filter((flag) => flag !== undefined))),
    ]),
  )
  assert.deepEqual(documented, declared)
})

test('every command has examples that begin with a command of ours or lead to one, and describes each flag', async () => {
  const program = await wholeProgram()
  const names = new Set([...commandsOf(program)].map(({ name }) => name))
  for (const { name, command } of commandsOf(program)) {
    assert.ok(examples(command).length > 0, `${name} has no examples`)
    for (const [invocation, meaning] of examples(command)) {
      const words = /hypeman(?: [a-z-]+){1,3}/.exec(invocation)?.[0].split(' ') ?? []
      assert.ok(
        words.some((_, index) => names.has(words.slice(0, index + 1).join(' '))),
        `${name}: ${invocation}`,
      )
      assert.notEqual(meaning, '')
    }
    for (const option of ownOptions(command)) assert.notEqual(option.description, '', `${name} ${option.flags}`)
    for (const argument of command.registeredArguments) assert.notEqual(argument.description, '', `${name} ${argument.name()}`)
  }
})
