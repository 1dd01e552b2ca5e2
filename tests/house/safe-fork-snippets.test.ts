// The snippets of docs/safe-forks.md do what the page says: each is taken from there, with another directory instead of /run/hypeman, and run while the generation changes.

import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { chmod, mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { test } from 'node:test'
import { run } from '../support/command.ts'

const page = await readFile(path.join(import.meta.dirname, '..', '..', 'docs', 'safe-forks.md'), 'utf8')
const LIMIT_MS = 120_000

/** The first block of a section. */
function snippetOf(section: string, language: string): string {
  const text = page.split(`\n### ${section}\n`)[1]?.split('\n### ')[0] ?? assert.fail(`docs/safe-forks.md has no section ${section}`)
  return text.split(`\n\`\`\`${language}\n`)[1]?.split('\n```')[0] ?? assert.fail(`${section} has no block of ${language}`)
}

/** A stand-in for /run/hypeman, whose generation is the agent's. */
class Generation implements AsyncDisposable {
  readonly directory: string
  #count = 0

  private constructor(directory: string) {
    this.directory = directory
  }

  static async make(below = tmpdir()): Promise<Generation> {
    const made = new Generation(await mkdtemp(path.join(below, 'hypeman-snippet-')))
    await mkdir(made.place)
    await made.next()
    return made
  }

  /** What stands for /run/hypeman. */
  get place(): string {
    return path.join(this.directory, 'run')
  }

  /** Takes its name at once, as in a guest. */
  async next(): Promise<void> {
    this.#count += 1
    const line = {
      generation: this.#count,
      instance_id: `i${this.#count}`,
      reason: 'fork',
      time_unix_ns: '1795963633225000000',
      time_jump_ns: '5',
    }
    await writeFile(path.join(this.place, 'generation.hypeman'), `${JSON.stringify(line)}\n`)
    await rename(path.join(this.place, 'generation.hypeman'), path.join(this.place, 'generation'))
  }

  async write(name: string, content: string): Promise<string> {
    const file = path.join(this.directory, name)
    await writeFile(file, content)
    return file
  }

  /** A snippet that looks here. */
  snippet(section: string, language: string): string {
    const text = snippetOf(section, language)
    assert.ok(text.includes('/run/hypeman'), `the snippet of ${section} looks at the generation`)
    return text.replaceAll('/run/hypeman', this.place)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.directory, { recursive: true, force: true })
  }
}

/** Starts a program, and once it says `ready` makes a new generation. Returns all that it has said when it has ended by itself. */
async function throughAFork(generation: Generation, program: string, args: readonly string[]): Promise<string[]> {
  const child = spawn(program, args, {
    cwd: generation.directory,
    stdio: ['pipe', 'pipe', 'inherit'],
    signal: AbortSignal.timeout(LIMIT_MS),
  })
  const ended = Promise.withResolvers<number | null>()
  child.once('error', ended.reject)
  child.once('close', ended.resolve)
  const said: string[] = []
  const listen = async (): Promise<void> => {
    for await (const line of createInterface(child.stdout)) {
      said.push(line)
      if (line !== 'ready') continue
      await generation.next()
      child.stdin.end('forked\n')
    }
  }
  const [code] = await Promise.all([ended.promise, listen()])
  assert.equal(code, 0, said.join('\n'))
  return said
}

/** Why a test can't run here, by what it needs; false: it can. */
function lacking(...programs: string[]): string | false {
  const missing = programs.find((program) => {
    try {
      execFileSync(program, ['--version'], { stdio: 'ignore' })
      return false
    } catch {
      return true
    }
  })
  return missing === undefined ? false : `the snippet is not run: there is no ${missing} here`
}

test('Node.js: a program that goes on is told that it is another instance', async () => {
  await using generation = await Generation.make()
  await generation.write('snippet.mjs', generation.snippet('Node.js', 'js'))
  const main = `
    globalThis.startAgainAs = (id) => { console.log('again as ' + id); process.exit() }
    const { freshBytes } = await import('./snippet.mjs')
    if (freshBytes(32).equals(freshBytes(32)) || freshBytes(32).length !== 32) throw new Error('they are not fresh')
    console.log('ready')`
  assert.deepEqual(await throughAFork(generation, process.execPath, [await generation.write('main.mjs', main)]), ['ready', 'again as i2'])
})

test('Python: random is seeded anew before the program is told', { skip: lacking('python3') }, async () => {
  await using generation = await Generation.make()
  const main = `${generation.snippet('Python', 'python')}
import sys
random.seed(7)
told = threading.Event()
def act(now):
    print("again as", now["instance_id"], random.random() != random.Random(7).random(), flush=True)
    told.set()
on_generation(act)
print("ready", flush=True)
assert told.wait(${LIMIT_MS / 1_000})
`
  assert.deepEqual(await throughAFork(generation, 'python3', [await generation.write('main.py', main)]), ['ready', 'again as i2 True'])
})

test('Go: the source is seeded anew at its first use after a fork, and only then', async () => {
  await using generation = await Generation.make()
  await generation.write('snippet.go', `package main\n\n${generation.snippet('Go', 'go')}\n`)
  await generation.write(
    'main.go',
    `package main

import (
	"bufio"
	"fmt"
	"os"
)

func main() {
	source := &Source{}
	before := source.Rand()
	fmt.Println("kept", source.Rand() == before)
	fmt.Println("ready")
	bufio.NewReader(os.Stdin).ReadString('\\n')
	fmt.Println("anew", source.Rand() != before)
}
`,
  )
  assert.deepEqual(await throughAFork(generation, 'go', ['run', 'main.go', 'snippet.go']), ['kept true', 'ready', 'anew true'])
})

test('Java: a watcher is told, and makes a generator that the kernel has seeded', { skip: lacking('java', 'javac') }, async () => {
  await using generation = await Generation.make()
  const main = `
import java.io.*;
import java.nio.file.*;
import java.security.SecureRandom;
import java.util.concurrent.CountDownLatch;
import java.util.function.Consumer;
class Main {
${generation.snippet('Java', 'java')}
  public static void main(String[] words) throws Exception {
    var told = new CountDownLatch(1);
    onGeneration(line -> {
      try {
        System.out.println("again " + line.contains("\\"instance_id\\":\\"i2\\"") + " " + (fresh().nextLong() != fresh().nextLong()));
      } catch (Exception error) {
        error.printStackTrace();
      }
      told.countDown();
    });
    System.out.println("ready");
    told.await();
  }
}
`
  assert.deepEqual(await throughAFork(generation, 'java', [await generation.write('Main.java', main)]), ['ready', 'again true true'])
})

/** A C compiler with the headers of OpenSSL 3. */
async function lackingOpenssl(): Promise<string | false> {
  if (lacking('cc') !== false) return lacking('cc')
  await using generation = await Generation.make()
  const source = await generation.write(
    'look.c',
    '#include <openssl/rand.h>\nEVP_RAND_CTX *RAND_get0_primary(OSSL_LIB_CTX *);\nint main(void) { return 0; }\n',
  )
  const { code } = await run('cc', [source, '-o', path.join(generation.directory, 'look'), '-lssl', '-lcrypto'])
  return code === 0 ? false : 'the snippet is not run: there are no headers of OpenSSL 3 here'
}

test('OpenSSL: each generator of the thread is seeded anew, and the ticket keys are taken', { skip: await lackingOpenssl() }, async () => {
  await using generation = await Generation.make()
  const lines = snippetOf('OpenSSL', 'c').split('\n')
  const calls = lines.filter((line) => /^\w+\(.*\);/.test(line))
  assert.equal(calls.length, 5, 'all statements of the snippet are looked at')
  const program = `${lines.filter((line) => line.startsWith('#include')).join('\n')}
#include <openssl/core_names.h>
#include <stdio.h>
static unsigned seeded(EVP_RAND_CTX *generator) {
  time_t at = 0;
  unsigned count = 0;
  OSSL_PARAM asked[] = { OSSL_PARAM_construct_uint(OSSL_DRBG_PARAM_RESEED_COUNTER, &count), OSSL_PARAM_construct_time_t(OSSL_DRBG_PARAM_RESEED_TIME, &at), OSSL_PARAM_construct_end() };
  return EVP_RAND_CTX_get_params(generator, asked) == 1 ? count : 0;
}
int main(void) {
  unsigned char keys[80], one[16];
  SSL_CTX *context = SSL_CTX_new(TLS_server_method());
  if (RAND_bytes(one, sizeof one) != 1 || RAND_priv_bytes(one, sizeof one) != 1) return 2;
  EVP_RAND_CTX *all[] = { RAND_get0_primary(NULL), RAND_get0_public(NULL), RAND_get0_private(NULL) };
  unsigned before[3];
  for (int i = 0; i < 3; i++) before[i] = seeded(all[i]);
${calls.map((line, index) => `  if (${line.slice(0, line.lastIndexOf(';'))} != 1) return ${10 + index};`).join('\n')}
  for (int i = 0; i < 3; i++) if (before[i] == 0 || seeded(all[i]) <= before[i]) return 20 + i;
  puts("seeded anew");
  return 0;
}
`
  const binary = path.join(generation.directory, 'main')
  const built = await run('cc', ['-Wall', '-Werror', await generation.write('main.c', program), '-o', binary, '-lssl', '-lcrypto'])
  assert.equal(built.code, 0, built.stderr)
  assert.deepEqual(await run(binary, []), { code: 0, stdout: 'seeded anew\n', stderr: '' })
})

/** PostgreSQL's programs, and root, which the hook runs as. */
async function lackingPostgres(): Promise<string | false> {
  const missing = lacking('initdb', 'pg_ctl', 'psql')
  if (missing !== false) return missing
  const { code } = await run('su', ['postgres', '-c', 'true'])
  return code === 0 ? false : 'the snippet is not run: it needs root, and the user postgres'
}

test(
  'PostgreSQL: the hook ends sessions of the source, and the archive of the source is left alone',
  { skip: await lackingPostgres() },
  async () => {
    // The directory for temporary files of a test run is its user's alone, and PostgreSQL runs as its own.
    await using generation = await Generation.make('/tmp')
    const { directory } = generation
    const data = path.join(directory, 'data')
    const env = { ...process.env, PGHOST: directory }
    const asPostgres = async (command: string): Promise<string> => {
      const { code, stdout, stderr } = await run('su', ['postgres', '-c', command], { cwd: directory, env })
      assert.equal(code, 0, `${command}: ${stderr}`)
      return stdout.trim()
    }
    await chmod(directory, 0o755)
    execFileSync('chown', ['postgres', directory])
    await asPostgres(`initdb --pgdata ${data} --auth trust --no-sync`)
    const settings = "-c listen_addresses='' -c fsync=off -c archive_mode=on"
    await asPostgres(
      `pg_ctl --pgdata ${data} --wait --log ${directory}/log --options "-k ${directory} ${settings}" start >${directory}/started 2>&1`,
    )
    await using stack = new AsyncDisposableStack()
    stack.defer(() => asPostgres(`pg_ctl --pgdata ${data} --mode immediate stop >${directory}/stopped 2>&1`).then(() => undefined))
    const ask = (sql: string): Promise<string> => asPostgres(`psql -qAtX -c "${sql}"`)
    await ask("alter system set archive_command = 'exit 1'")
    await ask('select pg_reload_conf()')

    const session = spawn('su', ['postgres', '-c', `psql -qAtX -c "select 'ready'" -c "select pg_sleep(${LIMIT_MS / 1_000})"`], {
      ...{ cwd: directory, env, stdio: ['ignore', 'pipe', 'pipe'], signal: AbortSignal.timeout(LIMIT_MS) },
    })
    const said = Promise.withResolvers<string>()
    let errors = ''
    session.stderr.on('data', (chunk: Buffer) => (errors += String(chunk)))
    session.once('close', () => said.resolve(errors))
    session.once('error', said.reject)
    for await (const line of createInterface(session.stdout)) if (line === 'ready') break

    const hook = snippetOf('PostgreSQL', 'sh').replace('data=/var/lib/postgresql/data', `data=${data}`)
    assert.ok(hook.includes(data))
    const { code, stderr } = await run('sh', [await generation.write('50-postgres', hook)], { cwd: directory, env })
    assert.equal(code, 0, stderr)
    assert.match(await said.promise, /terminating connection due to administrator command/)
    assert.equal(await ask('show archive_command'), '/bin/true')
  },
)
