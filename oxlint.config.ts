// The house rules that a machine can hold: import directions from one table, no cycles, no lost promises, small files, errors that are handled.
// Format is oxfmt's business, unused code knip's, types tsc's.

import { defineConfig, type OxlintOverride } from 'oxlint'

interface Folder {
  /** Folders that it may import from, through their doors. */
  readonly imports: readonly string[]
  /** Files that others may import; `all` where each file is for everybody. */
  readonly doors: 'all' | readonly string[]
}

const ground = ['api', 'platform', 'files'] as const
const resource = ['index.ts', 'types.ts'] as const

/** Every folder of src and where its imports may point: downwards. The test of this table fails when a folder is missing or gone. */
export const folders: Readonly<Record<string, Folder>> = {
  api: { imports: [], doors: 'all' },
  platform: { imports: ['api'], doors: 'all' },
  files: { imports: ['api', 'platform'], doors: 'all' },
  agent: { imports: ['api', 'platform'], doors: ['index.ts', 'contract.ts'] },
  hypervisors: { imports: ground, doors: ['driver.ts', 'release.ts', 'versions.ts'] },
  programs: { imports: [...ground, 'hypervisors'], doors: resource },
  kernels: { imports: ground, doors: resource },
  images: { imports: ground, doors: resource },
  volumes: { imports: ground, doors: resource },
  registry: { imports: [...ground, 'images'], doors: resource },
  pushes: { imports: [...ground, 'images'], doors: resource },
  resources: { imports: ['api', 'platform'], doors: resource },
  networks: { imports: [...ground, 'agent', 'hypervisors'], doors: resource },
  instances: { imports: [...ground, 'agent', 'hypervisors', 'kernels', 'images', 'volumes', 'networks'], doors: resource },
  snapshots: { imports: [...ground, 'agent', 'hypervisors', 'kernels', 'images', 'volumes', 'networks', 'instances'], doors: resource },
  schedules: { imports: [...ground, 'instances', 'snapshots'], doors: resource },
  jobs: { imports: ['api', 'platform', 'files', 'images', 'instances', 'snapshots', 'schedules', 'volumes'], doors: 'all' },
  telemetry: { imports: [...ground, 'instances', 'snapshots'], doors: 'all' },
  server: {
    imports: [
      'api',
      'platform',
      'agent',
      'images',
      'pushes',
      'registry',
      'volumes',
      'instances',
      'resources',
      'snapshots',
      'schedules',
      'telemetry',
    ],
    doors: 'all',
  },
  client: { imports: ['api', 'platform'], doors: 'all' },
  cli: { imports: [...ground, 'client'], doors: 'all' },
}

const densify = 'copies holes as zeros: use src/files, which keeps sparse files sparse'
const denseCopies = [
  { name: 'node:fs', importNames: ['cp', 'cpSync', 'copyFile', 'copyFileSync'], message: densify },
  { name: 'node:fs/promises', importNames: ['cp', 'copyFile'], message: densify },
]

// How far up `src` is from a file of a folder, at each depth that the tree has.
const depths = [1, 2, 3]

function importRules(name: string, folder: Folder): OxlintOverride[] {
  return depths.map((depth) => {
    const up = '../'.repeat(depth)
    const forbidden = Object.entries(folders).flatMap(([other, { doors }]) => {
      if (other === name) return []
      if (!folder.imports.includes(other)) return [`${up}${other}/**`]
      return doors === 'all' ? [] : [`${up}${other}/**`, ...doors.map((door) => `!${up}${other}/${door}`)]
    })
    const patterns = [
      {
        group: [...forbidden, `${up}main.ts`, `${up}compose.ts`, `${up}drivers.ts`, `${up}host-hypervisors.ts`],
        message: `src/${name} may import from ${folder.imports.join(', ') || 'nothing'} only, through their doors (oxlint.config.ts)`,
      },
    ]
    if (name === 'api')
      patterns.push({ group: ['node:*', 'node:*/**'], message: 'src/api is the contract, shared with browsers: no I/O, no node: imports' })
    if (name === 'hypervisors' && depth === 2) patterns.push({ group: ['../[a-z]*/**'], message: 'hypervisors know nothing of each other' })
    return {
      files: [`src/${name}${'/*'.repeat(depth)}.ts`],
      excludeFiles: ['**/*.test.ts'],
      rules: { 'no-restricted-imports': ['error', { patterns, paths: name === 'files' ? [] : denseCopies }] },
    }
  })
}

export default defineConfig({
  plugins: ['eslint', 'typescript', 'oxc', 'import', 'node', 'promise', 'unicorn'],
  categories: { correctness: 'error' },
  options: { typeAware: true, reportUnusedDisableDirectives: 'error' },
  ignorePatterns: ['dist/**', '.assets/**', '.work/**', 'node_modules/**'],
  rules: {
    'import/no-cycle': 'error',
    'import/no-default-export': 'error',
    'max-lines': ['error', { max: 300, skipBlankLines: true, skipComments: true }],
    'no-empty': ['error', { allowEmptyCatch: false }],
    'no-restricted-properties': [
      'error',
      ...['fs', 'fsp', 'promises'].flatMap((object) =>
        ['cp', 'copyFile', 'cpSync', 'copyFileSync'].map((property) => ({ object, property, message: densify })),
      ),
    ],
    'no-var': 'error',
    'prefer-const': 'error',
    eqeqeq: 'error',
    // Arguments that belong together stay on one line as a spread array.
    'unicorn/no-useless-spread': 'off',
    'typescript/ban-ts-comment': 'error',
    'typescript/consistent-type-imports': 'error',
    'typescript/no-explicit-any': 'error',
    'typescript/no-floating-promises': 'error',
    'typescript/no-misused-promises': 'error',
    'typescript/no-non-null-assertion': 'error',
    'typescript/only-throw-error': 'error',
    'typescript/return-await': ['error', 'error-handling-correctness-only'],
    'typescript/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }],
  },
  overrides: [
    {
      files: ['src/**/*.ts'],
      excludeFiles: ['**/*.test.ts', 'src/platform/config.ts', 'src/main.ts'],
      rules: { 'node/no-process-env': 'error' },
    },
    ...Object.entries(folders).flatMap(([name, folder]) => importRules(name, folder)),
    {
      files: ['src/main.ts'],
      rules: {
        'no-restricted-imports': [
          'error',
          {
            patterns: [
              {
                group: ['./*/**', '!./cli/**'],
                message: 'main.ts hands over to the command line, with the server as something to load later',
              },
            ],
          },
        ],
      },
    },
    {
      // A promise of node:test is awaited by the runner.
      files: ['**/*.test.ts', 'tests/**/*.ts', 'bench/**/*.ts'],
      rules: {
        'typescript/no-floating-promises': [
          'error',
          {
            allowForKnownSafeCalls: [
              {
                from: 'package',
                name: ['test', 'it', 'describe', 'suite', 'before', 'after', 'beforeEach', 'afterEach'],
                package: 'node:test',
              },
            ],
          },
        ],
        'no-restricted-properties': 'off',
        'typescript/no-non-null-assertion': 'off',
      },
    },
    { files: ['*.config.ts', 'scripts/testing/count-reporter.ts'], rules: { 'import/no-default-export': 'off' } },
  ],
})
