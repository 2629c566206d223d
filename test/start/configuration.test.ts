import { randomBytes } from 'node:crypto'
import fs, { mkdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { join, parse } from 'node:path'
import { mock } from 'node:test'
import t, { type Test } from 'tap'
import { makeFolder } from '../../adapters/durable-folders.js'
import { openMemory } from '../../adapters/storage/memory.js'
import { type StorageEntry, storages } from '../../adapters/storage/registry.js'
import { createStorage } from '../../adapters/storage/storage.js'
import type { Environment } from '../../schemas/environment.js'
import {
  chooseStorage,
  loadEnvironmentFiles,
  readEnvironment,
  readProviders
} from '../../src/configuration.js'
import { createKeyring } from '../../src/encryption.js'
import { verifyKeys } from '../../src/key-canaries.js'
import { findKeys, makeKeys, parseEncryptionKeys } from '../../src/keys.js'
import { openBackend } from '../../src/open.js'
import { temporaryFolder } from '../support/storages.js'

const entryOf = (kind: StorageEntry['kind']) =>
  storages.find((entry) => entry.kind === kind) as StorageEntry
const sqlite = entryOf('sqlite')
const memory = entryOf('memory')

function choice(variables: Record<string, string>) {
  const { entry, reason } = chooseStorage(readEnvironment(variables))
  return [entry.kind, reason]
}

const key = () => randomBytes(32).toString('base64')

/** Found, or made: as a start on an empty storage has it. */
function loadKeys(env: Environment, entry: StorageEntry) {
  return findKeys(env, entry) ?? makeKeys(env, entry)
}

/** Puts other functions in the place of those of `node:fs`, until the test ends. */
function replaceInFs(t: Test, replacements: Partial<typeof fs>): void {
  t.teardown(() => {
    mock.restoreAll()
    syncBuiltinESMExports()
  })
  for (const [name, replacement] of Object.entries(replacements))
    mock.method(fs, name as 'fsyncSync', replacement as typeof fs.fsyncSync)
  syncBuiltinESMExports()
}

t.test('variables have types, ranges and defaults', async (t) => {
  t.match(readEnvironment({}), {
    PORT: 3000,
    HOST: '127.0.0.1',
    LOG_LEVEL: 'info',
    REGISTRATION: 'open'
  })
  t.match(readEnvironment({ PORT: '8080', HOST: '' }), { PORT: 8080, HOST: '127.0.0.1' })
  for (const [name, value] of [
    ['PORT', '70000'],
    ['PORT', 'http'],
    ['PORT', '0x50'],
    ['BODY_LIMIT', 'Infinity'],
    ['TRUST_PROXY', 'true'],
    ['TRUST_PROXY', '10.0.0.0/8, everyone'],
    ['TRUST_PROXY', '10.0.0.0/99'],
    ['TRUST_PROXY', '10.0.0.0/0'],
    ['TRUST_PROXY', '10.0.0.0/'],
    ['TRUST_PROXY', '::1/129'],
    ['TRUST_PROXY', '10.0.0.1/8/5'],
    ['CORS_ORIGIN', '*,https://app.example.com'],
    ['CORS_ORIGIN', 'https://app.example.com/'],
    ['CORS_ORIGIN', 'https://App.example.com'],
    ['CORS_ORIGIN', 'https://app.example.com:443'],
    ['CORS_ORIGIN', 'https://*.example.com'],
    ['CORS_ORIGIN', 'app.example.com'],
    ['CORS_ORIGIN', 'localhost:8080'],
    ['LLM_CACHE_MAX_ENTRIES', '99999999999'],
    ['SQLITE_PATH', ':memory:'],
    ['SQLITE_PATH', ':memory: '],
    ['SQLITE_PATH', ' '],
    ['SQLITE_PATH', ' app.db'],
    ['SUPABASE_DB_URL', 'mysql://x'],
    ['ALLOW_DEMO_PASSWORD', 'yes'],
    ['LOG_LEVEL', 'loud'],
    ['STORAGE', 'floppy'],
    ['REGISTRATION', 'maybe'],
    ['DATABASE_URL', 'mysql://x'],
    ['AUTH_SECRET', 'short']
  ] as const)
    t.throws(
      () => readEnvironment({ [name]: value }),
      { name: 'ConfigurationError', message: new RegExp(`^${name} `) },
      `${name}=${value}`
    )
})

t.test('a mistake is told with what the variable is for', async (t) => {
  for (const [name, value, message] of [
    ['SQLITE_PATH', ':memory:', / In memory is STORAGE=memory\.$/],
    [
      'DATABASE_URL',
      'localhost/app',
      / Postgres to use, as a postgres:\/\/ URL; over a network with \?sslmode=verify-full\.$/
    ],
    ['LLM_CACHE_ENABLED', '1', /^LLM_CACHE_ENABLED must be true or false\. /]
  ] as const)
    t.throws(() => readEnvironment({ [name]: value }), { message })
})

t.test('what is meant is taken', async (t) => {
  for (const [name, value] of [
    ['TRUST_PROXY', 'loopback, 10.0.0.0/8,192.0.2.1/32, ::1/128,2001:db8::1'],
    ['CORS_ORIGIN', '*'],
    ['CORS_ORIGIN', 'https://app.example.com,'],
    ['CORS_ORIGIN', 'https://a.example.com, http://localhost:8080,http://[::1]:8080'],
    ['CORS_ORIGIN', 'capacitor://localhost'],
    ['DATABASE_URL', 'postgres://ada:secret@/app?host=/var/run/postgresql'],
    ['DATABASE_URL', 'postgresql:///app'],
    ['REDIS_URL', 'rediss://:secret@[::1]:6379/1']
  ] as const)
    t.equal(readEnvironment({ [name]: value })[name], value)
})

t.test('a URL that is none is told without its password', async (t) => {
  for (const [name, scheme] of [
    ['DATABASE_URL', 'postgres'],
    ['SUPABASE_DB_URL', 'postgresql'],
    ['SUPABASE_URL', 'https'],
    ['REDIS_URL', 'redis']
  ] as const)
    for (const rest of [
      'ada:secret@127.0.0.1:99999/x',
      'ada:sec#ret@127.0.0.1:5432/x',
      'ada:sec%ret@127.0.0.1/x'
    ])
      t.throws(
        () => readEnvironment({ [name]: `${scheme}://${rest}` }),
        { name: 'ConfigurationError', message: new RegExp(`^${name} is not a valid URL(?!.*ret)`) },
        `${name}=${scheme}://${rest}`
      )
})

t.test('files of variables are read, and one that cannot be is not passed over', async (t) => {
  const [folder, start] = [temporaryFolder(t), process.cwd()]
  const before = { ...process.env }
  process.chdir(folder)
  t.teardown(() => {
    process.chdir(start)
    for (const name of ['TEST_A', 'TEST_B', 'TEST_C', 'TEST_D']) delete process.env[name]
    Object.assign(process.env, before)
  })
  process.env.TEST_A = 'set'
  process.env.TEST_B = ''
  writeFileSync('.env', '\ufeffTEST_C="of .env" # why\nTEST_A=no\nTEST_B=no\nTEST_D=no\n')
  writeFileSync('.env.local', 'TEST_D=of .env.local\n')
  loadEnvironmentFiles()
  const { TEST_A, TEST_B, TEST_C, TEST_D } = process.env
  t.strictSame([TEST_A, TEST_B, TEST_C, TEST_D], ['set', '', 'of .env', 'of .env.local'])

  // As PowerShell writes it: read as UTF-8 it would have no variable.
  writeFileSync('.env', '\ufeffTEST_D=no\n', 'utf16le')
  const message = '.env is not text in UTF-8. Save it in UTF-8.'
  t.throws(loadEnvironmentFiles, { name: 'ConfigurationError', message })
  writeFileSync('.env', 'TEST_D=no\n', 'utf16le')
  t.throws(loadEnvironmentFiles, { name: 'ConfigurationError', message })

  rmSync('.env')
  mkdirSync('.env')
  t.throws(loadEnvironmentFiles, {
    name: 'ConfigurationError',
    message: '.env cannot be read (EISDIR). Make it a file that this user may read, or remove it.'
  })
})

t.test('metrics have a port of their own', async (t) => {
  const ports = (PORT: string, METRICS_PORT: string) => readEnvironment({ PORT, METRICS_PORT })
  const message = 'METRICS_PORT is the same as PORT, 4000. Set another.'
  t.throws(() => ports('4000', '4000'), { name: 'ConfigurationError', message })
  t.match(ports('0', '0'), { PORT: 0, METRICS_PORT: 0 }, 'any that is free')
})

t.test('the environment chooses the storage, and says why', async (t) => {
  t.strictSame(choice({}), ['memory', 'no storage is configured'])
  t.strictSame(choice({ SQLITE_PATH: 'x.db' }), ['sqlite', 'SQLITE_PATH set'])
  t.strictSame(choice({ STORAGE: 'sqlite' }), ['sqlite', 'STORAGE=sqlite'])
  t.strictSame(choice({ STORAGE: 'memory', SQLITE_PATH: 'x.db' }), ['memory', 'STORAGE=memory'])
})

t.test('keys of the environment are used as they are', async (t) => {
  const env = readEnvironment({
    AUTH_SECRET: 'x'.repeat(40),
    ENCRYPTION_KEY: `new:${key()},old:${key()}`
  })
  const { authSecret, keyring, origin } = loadKeys(env, sqlite)
  t.equal(authSecret, 'x'.repeat(40))
  t.strictSame(keyring.ids, ['new', 'old'])
  t.equal(keyring.seal('v', []).key_id, 'new', 'the first one writes')
  t.equal(origin, null)
})

t.test('an encryption key that is none is refused', async (t) => {
  for (const text of [
    '',
    'abc',
    `${key()}x`.slice(8),
    'a:',
    `a:${key()},a:${key()}`,
    `a b:${key()}`,
    // What looks like a list or a comment is not passed over.
    `a:${key()};b:${key()}`,
    `a:${key()} b:${key()}`,
    `a:${key()} # the old one`,
    `a:${key()}${key()}`
  ])
    t.throws(() => parseEncryptionKeys(text), { message: /^ENCRYPTION_KEY/ }, text)
})

t.test(
  'a key of an LLM provider that no header can hold is refused, and not repeated',
  async (t) => {
    for (const key of ['sk-schlüssel', 'sk-key\nsk-key', 'sk-“key”']) {
      const provider = { name: 'local', url: 'http://127.0.0.1/v1', key, model: 'm' }
      for (const [name, variables] of [
        ['openai', { OPENAI_API_KEY: key }],
        ['local', { LLM_PROVIDERS: JSON.stringify([provider]) }]
      ] as const) {
        const read = () => readProviders(readEnvironment(variables))
        t.throws(read, { name: 'ConfigurationError', message: new RegExp(`provider ${name} `) })
        t.throws(read, { message: /^((?!sk-).)*$/ })
      }
    }
    for (const key of ['sk-key_1.~!', 'no key', 'sk-key\n'])
      t.match(readProviders(readEnvironment({ OPENAI_API_KEY: key })), [{ name: 'openai', key }])
  }
)

t.test('what is wrong with an LLM provider is named', async (t) => {
  const provider = { name: 'local', url: 'http://127.0.0.1/v1', key: 'k', model: 'm' }
  for (const [providers, message] of [
    ['[', 'is not valid JSON'],
    ['{}', 'as a whole: must be array'],
    ['[{"name":"x"}]', '/0/url: is required'],
    [JSON.stringify([provider, { ...provider, modle: 'm' }]), '/1/modle: cannot be set here']
  ] as const)
    t.throws(() => readProviders(readEnvironment({ LLM_PROVIDERS: providers })), {
      name: 'ConfigurationError',
      message: new RegExp(`^LLM_PROVIDERS ${message}`)
    })
})

t.test('production refuses missing and guessable keys, and names the variable', async (t) => {
  const good = { NODE_ENV: 'production', AUTH_SECRET: key(), ENCRYPTION_KEY: key() }
  t.equal(loadKeys(readEnvironment(good), sqlite).origin, null)
  const guessable = Buffer.alloc(32, 'a').toString('base64')
  for (const [name, value] of [
    ['AUTH_SECRET', ''],
    ['AUTH_SECRET', 'change-me-change-me-change-me-change-me'],
    ['AUTH_SECRET', 'Change this to a long random string!'],
    ['AUTH_SECRET', 'a'.repeat(40)],
    ['AUTH_SECRET', 'abcdefghijklmnopqrstuvwxyz012345'],
    ['AUTH_SECRET', 'the quick brown fox.'.repeat(2)],
    ['AUTH_SECRET', 'abba acdc abba acdc baccala decade'],
    ['AUTH_SECRET', '3f5a0c9be1d27743f5a0c9be1d2774'.repeat(2)],
    ['ENCRYPTION_KEY', ''],
    ['ENCRYPTION_KEY', 'AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8='],
    ['ENCRYPTION_KEY', Buffer.from('0123456789abcdef0123456789abcdef').toString('base64')],
    ['ENCRYPTION_KEY', Buffer.from('31415926535897932384626433832795').toString('base64')],
    ['ENCRYPTION_KEY', guessable],
    ['ENCRYPTION_KEY', `good:${key()},bad:${guessable}`]
  ] as const)
    t.throws(
      () => loadKeys(readEnvironment({ ...good, [name]: value }), sqlite),
      { name: 'ConfigurationError', message: new RegExp(`^${name} `) },
      `${name}=${value}`
    )
})

t.test('production takes secrets that were drawn, however they are written', async (t) => {
  for (const AUTH_SECRET of [
    key(),
    // Of 32 hexadecimal digits hardly any has all sixteen.
    '3f5a0c9be1d27748c1990bf35ad2e07c',
    'c0ffee1148a2d9b3c0e8a1f2b3d4e9a1b8f0d2c4e9a1b3f0c8d2e4a1b9f0c3d2',
    '7d3c1f0e-5b2a-4c1d-9e3f-0a7b5c2d1e4f',
    // As `echo` and a file end.
    '3f5a0c9be1d27748c1990bf35ad2e07c\n',
    'MZXW6YTBOJQGC4TFMRSXIZLTOQ2DGNBV'
  ])
    t.doesNotThrow(
      () =>
        loadKeys(
          readEnvironment({ NODE_ENV: 'production', AUTH_SECRET, ENCRYPTION_KEY: key() }),
          sqlite
        ),
      AUTH_SECRET
    )
})

t.test('keys are made once beside an SQLite file, for the owner alone', async (t) => {
  const SQLITE_PATH = join(temporaryFolder(t), 'deep', 'app.db')
  const env = readEnvironment({ SQLITE_PATH })
  const first = loadKeys(env, sqlite)
  const file = `${SQLITE_PATH}.keys`
  t.equal(first.origin, `made now and kept in ${file}: back it up`)
  t.equal(statSync(file).mode & 0o777, 0o600)
  const second = loadKeys(env, sqlite)
  t.equal(second.origin, `kept in ${file}`)
  t.equal(second.authSecret, first.authSecret)
  const sealed = first.keyring.seal('value', ['t', 'n'])
  t.equal(second.keyring.open(sealed, ['t', 'n']), 'value')

  writeFileSync(file, '{')
  t.throws(() => loadKeys(env, sqlite), { message: /app.db.keys cannot be read/ })
  writeFileSync(file, '{"auth_secret": "x"}')
  t.throws(() => loadKeys(env, sqlite), { message: /app.db.keys .* lacks/ })
})

t.test('keys and their name are on the disk before anything is encrypted with them', async (t) => {
  const folder = temporaryFolder(t)
  const { fsyncSync, linkSync } = fs
  const done: string[] = []
  replaceInFs(t, {
    fsyncSync(fd) {
      fsyncSync(fd)
      const { ino, size } = fs.fstatSync(fd)
      const isSame = (name: string) => statSync(join(folder, name)).ino === ino
      done.push(['', 'made', 'made/too'].find(isSame) ?? (size > 0 ? 'keys' : 'an empty file'))
    },
    linkSync(from, to) {
      linkSync(from, to)
      done.push('link')
    }
  })
  const SQLITE_PATH = join(folder, 'made', 'too', 'app.db')
  const env = readEnvironment({ SQLITE_PATH })
  loadKeys(env, sqlite)
  t.strictSame(
    done,
    ['made', '', 'keys', 'link', 'made/too'],
    'and so are the folders that it makes'
  )

  done.length = 0
  loadKeys(env, sqlite)
  t.strictSame(done, ['made/too'], 'whoever made them may have been killed before that')
})

t.test('keys are made where folders cannot be flushed', async (t) => {
  const { fsyncSync } = fs
  replaceInFs(t, {
    fsyncSync(fd) {
      if (fs.fstatSync(fd).isDirectory()) throw Object.assign(new Error(), { code: 'EINVAL' })
      fsyncSync(fd)
    }
  })
  const SQLITE_PATH = join(temporaryFolder(t), 'made', 'app.db')
  t.match(loadKeys(readEnvironment({ SQLITE_PATH }), sqlite).origin, /^made now and kept in/)
})

t.test('folders are made where the path leads, links and all', async (t) => {
  const folder = temporaryFolder(t)
  const here = process.cwd()
  t.teardown(() => process.chdir(here))
  process.chdir(folder)
  mkdirSync('a/b', { recursive: true })
  symlinkSync('a/b', 'link')
  for (const [path, real] of [
    ['link/../c/app.db', 'a/c/app.db'],
    ['d/app.db', 'd/app.db'],
    ['app.db', 'app.db']
  ] as const) {
    loadKeys(readEnvironment({ SQLITE_PATH: path }), sqlite)
    t.ok(statSync(join(folder, `${real}.keys`)).isFile(), path)
  }
  t.doesNotThrow(() => makeFolder(parse(folder).root))
})

t.test('keys that another process makes at the same time are those of both', async (t) => {
  const folder = temporaryFolder(t)
  const others = readEnvironment({ SQLITE_PATH: join(folder, 'other.db') })
  const made = loadKeys(others, sqlite)
  const { fsyncSync, linkSync } = fs
  let linked = false
  let flushed = false
  replaceInFs(t, {
    linkSync(from, to) {
      linkSync(join(folder, 'other.db.keys'), to)
      linked = true
      linkSync(from, to)
    },
    fsyncSync(fd) {
      fsyncSync(fd)
      flushed ||= linked && fs.fstatSync(fd).ino === statSync(folder).ino
    }
  })
  const file = join(folder, 'app.db')
  const found = loadKeys(readEnvironment({ SQLITE_PATH: file }), sqlite)
  t.equal(found.authSecret, made.authSecret)
  t.equal(found.origin, `kept in ${file}.keys`)
  t.ok(flushed, 'whoever is first')
  t.strictSame(fs.readdirSync(folder).sort(), ['app.db.keys', 'other.db.keys'])
})

t.test('a key file that cannot be made is told, and no draft of it stays', async (t) => {
  const folder = temporaryFolder(t)
  const env = readEnvironment({ SQLITE_PATH: join(folder, 'app.db') })
  replaceInFs(t, {
    linkSync() {
      throw Object.assign(new Error(), { code: 'EACCES' })
    }
  })
  await t.rejects(openBackend(env), {
    name: 'ConfigurationError',
    message: `The key file ${folder}/app.db.keys cannot be made (EACCES). Give it a folder that can be written to, on a disk with room, or set AUTH_SECRET and ENCRYPTION_KEY.`
  })
  t.strictSame(fs.readdirSync(folder), ['app.db'])
})

t.test('beside ENCRYPTION_KEY only a secret of tokens is made, if that key is right', async (t) => {
  const folder = temporaryFolder(t)
  const SQLITE_PATH = join(folder, 'app.db')
  const start = async (variables: Record<string, string>) => {
    const { storage, keys } = await openBackend(readEnvironment({ SQLITE_PATH, ...variables }))
    await storage.close()
    return keys
  }
  const ENCRYPTION_KEY = key()
  await start({ ENCRYPTION_KEY, AUTH_SECRET: key() })
  await t.rejects(start({ ENCRYPTION_KEY: key() }), { message: /key default is not the one/ })
  t.strictSame(fs.readdirSync(folder), ['app.db'])

  const { authSecret } = await start({ ENCRYPTION_KEY })
  t.equal((await start({ ENCRYPTION_KEY })).authSecret, authSecret)
  await t.rejects(start({}), { message: /app\.db\.keys cannot be used: it lacks / })
  await start({ ENCRYPTION_KEY: `new:${key()}` })
})

t.test('a key file that is of no use is told before a database is made', async (t) => {
  const folder = temporaryFolder(t)
  writeFileSync(join(folder, 'app.db.keys'), '{')
  const env = readEnvironment({ SQLITE_PATH: join(folder, 'app.db') })
  await t.rejects(openBackend(env), { message: /app.db.keys cannot be read/ })
  for (const wrong of [
    {},
    { auth_secret: key() },
    { auth_secret: 5, encryption_key: key() },
    { auth_secret: key(), encryption_key: 'short' },
    { auth_secret: key(), encryption_key: [key()] }
  ]) {
    writeFileSync(join(folder, 'app.db.keys'), JSON.stringify(wrong))
    const message = /^The key file .*app.db.keys cannot be used: it lacks .* put the file back/
    await t.rejects(openBackend(env), { name: 'ConfigurationError', message })
  }
  await t.rejects(openBackend({ ...env, ENCRYPTION_KEY: 'short' }), { message: /^ENCRYPTION_KEY/ })
  t.strictSame(fs.readdirSync(folder), ['app.db.keys'])
})

t.test('the keys of a server that starts at the same moment are taken', async (t) => {
  const open = async (path: string) => openBackend(readEnvironment({ SQLITE_PATH: path }))
  const folder = temporaryFolder(t)
  const [file, other] = [join(folder, 'app.db'), join(folder, 'other.db')]
  const first = await open(other)
  await first.storage.close()

  const { readFileSync } = fs
  let reads = 0
  replaceInFs(t, {
    readFileSync: ((path: string, encoding: 'utf8') => {
      if (path !== `${file}.keys` || reads++ > 0) return readFileSync(path, encoding)
      for (const name of ['', '.keys']) fs.copyFileSync(`${other}${name}`, `${file}${name}`)
      throw Object.assign(new Error(), { code: 'ENOENT' })
    }) as typeof readFileSync
  })
  const second = await open(file)
  t.teardown(() => second.storage.close())
  t.equal(second.keys.authSecret, first.keys.authSecret)
  t.equal(second.keys.origin, `kept in ${file}.keys`)
})

t.test('without a file of its own a storage gets keys for one run', async (t) => {
  const env = readEnvironment({})
  const first = loadKeys(env, memory)
  t.equal(first.origin, 'made for this run')
  t.not(loadKeys(env, memory).authSecret, first.authSecret)
})

t.test('a wrong encryption key is told before anything is written with it', async (t) => {
  const storage = createStorage(openMemory())
  const right = { id: 'default', key: randomBytes(32) }
  const wrong = { id: 'default', key: randomBytes(32) }
  await verifyKeys(storage, createKeyring([right]))
  await verifyKeys(storage, createKeyring([right]))
  await verifyKeys(storage, createKeyring([{ id: 'next', key: randomBytes(32) }, right]))
  await t.rejects(verifyKeys(storage, createKeyring([wrong])), {
    name: 'DecryptionError',
    message: /default/
  })
})

t.test('of two that start at once, with different keys of one name, one is told', async (t) => {
  const storage = createStorage(openMemory())
  const ring = () => createKeyring([{ id: 'default', key: randomBytes(32) }])
  const [one, other] = [ring(), ring()]
  const starts = await Promise.allSettled(
    [one, one, other].map((each) => verifyKeys(storage, each))
  )
  t.match(starts, [
    { status: 'fulfilled' },
    { status: 'fulfilled' },
    { status: 'rejected', reason: { name: 'DecryptionError' } }
  ])
})
