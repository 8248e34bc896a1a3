// An OpenID provider for tests. Run: node index.mjs FOLDER, with its settings as the first line of stdin.
//
// What it knows (keys, clients, tokens, sessions) is in FOLDER/state.json, so that a restart goes on where it was. Each
// further line of stdin is a command, answered by a line on stdout. It ends with its stdin.

import { generateKeyPairSync, randomBytes } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { createInterface } from 'node:readline'
import { join } from 'node:path'

console.info = console.warn = () => {} // what oidc-provider says about production is not meant for tests
const { default: Provider } = await import('oidc-provider')

const file = join(process.argv[2], 'state.json')
const state = existsSync(file) ? JSON.parse(readFileSync(file)) : { keys: [], stored: {} }
const save = () => writeFileSync(file, JSON.stringify(state))
const now = () => Math.floor(Date.now() / 1000)

class Stored {
  constructor (model) { this.model = model }
  key (id) { return `${this.model}:${id}` }
  async upsert (id, payload, lifetime) {
    state.stored[this.key(id)] = { payload, until: lifetime ? now() + lifetime : null }
    save()
  }
  async find (id) {
    const found = state.stored[this.key(id)]
    return found && (found.until === null || found.until > now()) ? structuredClone(found.payload) : undefined
  }
  async findByUid (uid) {
    const found = Object.entries(state.stored).find(([key, held]) => key.startsWith('Session:') && held.payload.uid === uid)
    return found && this.find(found[0].slice('Session:'.length))
  }
  async findByUserCode () {}
  async consume (id) { state.stored[this.key(id)].payload.consumed = now(); save() }
  async destroy (id) { delete state.stored[this.key(id)]; save() }
  async revokeByGrantId (grant) {
    for (const [key, held] of Object.entries(state.stored)) if (held.payload.grantId === grant) delete state.stored[key]
    save()
  }
}

const KINDS = {
  RS256: () => generateKeyPairSync('rsa', { modulusLength: 2048 }),
  ES256: () => generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  EdDSA: () => generateKeyPairSync('ed25519')
}

const newKey = alg => ({
  ...KINDS[alg]().privateKey.export({ format: 'jwk' }), kid: randomBytes(6).toString('hex'), use: 'sig', alg
})

// One key for each algorithm, newest first. `keepOld`: what they have signed still counts.
function rotate (keepOld) {
  state.keys = [...Object.keys(KINDS).map(newKey), ...(keepOld ? state.keys : [])]
  save()
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
const settings = JSON.parse((await lines.next()).value)
// settings: issuer, port, users {name: {password, claims…}}, lifetimes {AccessToken, …} in seconds, algorithm of JWTs,
// tls {cert, key, ca}: files, or null
let provider, answer

function configure () {
  provider = new Provider(settings.issuer, {
    adapter: Stored,
    jwks: { keys: state.keys },
    cookies: { keys: ['of tests'] },
    claims: { openid: ['sub'], profile: ['name', 'groups'], email: ['email'] },
    conformIdTokenClaims: false,
    scopes: ['openid', 'offline_access', 'read', 'write'],
    ttl: { AccessToken: 60, IdToken: 60, ClientCredentials: 60, RefreshToken: 600, Session: 600, Grant: 600, Interaction: 600, AuthorizationCode: 60, ...settings.lifetimes },
    clientBasedCORS: () => false,
    pkce: { required: () => true },
    issueRefreshToken: async (context, client) => client.grantTypeAllowed('refresh_token'),
    rotateRefreshToken: true, // and one that is used twice ends its grant
    findAccount: async (context, sub) => settings.users[sub] && {
      accountId: sub,
      claims: async () => ({ sub, ...settings.users[sub].claims })
    },
    loadExistingGrant: async context => { // everybody agrees to everything
      const { client, params, provider: { Grant }, session } = context.oidc
      const before = session.grantIdFor(client.clientId)
      const grant = (before && await Grant.find(before)) ?? new Grant({ clientId: client.clientId, accountId: session.accountId })
      grant.addOIDCScope(params.scope)
      for (const resource of [params.resource ?? []].flat()) grant.addResourceScope(resource, params.scope)
      await grant.save()
      return grant
    },
    interactions: { url: (context, interaction) => `/login/${interaction.uid}` },
    enabledJWA: { clientAuthSigningAlgValues: ['RS256', 'ES256', 'EdDSA'], idTokenSigningAlgValues: Object.keys(KINDS) },
    clientAuthMethods: [
      'client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt', 'none',
      ...(settings.tls ? ['tls_client_auth'] : [])
    ],
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: async () => true },
      revocation: { enabled: true },
      mTLS: {
        enabled: Boolean(settings.tls),
        tlsClientAuth: true,
        getCertificate: context => context.socket.getPeerX509Certificate()?.toString(),
        certificateAuthorized: context => context.socket.authorized,
        certificateSubjectMatches: (context, property, expected) =>
          property === 'tls_client_auth_san_dns' && context.socket.getPeerX509Certificate().checkHost(expected) !== undefined
      },
      backchannelLogout: { enabled: true },
      rpInitiatedLogout: { enabled: true, logoutSource },
      resourceIndicators: { // a token for a resource is a JWT; without one it is opaque
        enabled: true,
        defaultResource: async () => [],
        useGrantedResource: async () => true,
        getResourceServerInfo: async (context, resource) => ({
          audience: resource, scope: 'read write', accessTokenFormat: 'jwt', jwt: { sign: { alg: settings.algorithm ?? 'RS256' } },
          accessTokenTTL: settings.lifetimes?.AccessToken ?? 60
        })
      }
    }
  })
  provider.on('server_error', (context, error) => console.error(error))
  answer = provider.callback()
}

function page (title, body) {
  return `<!doctype html><title>${title}</title><h1>${title}</h1>${body}`
}

async function logoutSource (context, form) {
  context.body = page('Sign out', `${form}<button autofocus type="submit" form="op.logoutForm" value="yes" name="logout">Yes</button>`)
}

async function login (request, response) {
  if (request.method !== 'POST') {
    const form = '<form method="post"><input name="user"><input name="password" type="password"><button>Sign in</button></form>'
    response.writeHead(200, { 'content-type': 'text/html' }).end(page('Sign in', form))
    return
  }
  let body = ''
  for await (const piece of request) body += piece
  const given = new URLSearchParams(body)
  const user = settings.users[given.get('user')]
  if (!user || user.password !== given.get('password')) {
    response.writeHead(403, { 'content-type': 'text/html' }).end(page('No such user', ''))
    return
  }
  await provider.interactionFinished(request, response, { login: { accountId: given.get('user') } })
}

const commands = {
  client: async ({ client }) => { await new Stored('Client').upsert(client.client_id, client) },
  rotate: async ({ keep_old: keepOld }) => { rotate(keepOld); configure() },
  requests: async () => asked
}
const asked = {} // how often each path was asked for

if (!state.keys.length) rotate(false)
configure()
const files = settings.tls && Object.fromEntries(Object.entries(settings.tls).map(([name, file]) => [name, readFileSync(file)]))
const serve = (request, response) => {
  const { pathname } = new URL(request.url, settings.issuer)
  asked[pathname] = (asked[pathname] ?? 0) + 1
  if (pathname.startsWith('/login/')) login(request, response).catch(error => response.writeHead(500).end(`${error}`))
  else answer(request, response)
}
const server = files ? createTlsServer({ ...files, requestCert: true, rejectUnauthorized: false }, serve) : createServer(serve)
server.listen(settings.port, '127.0.0.1', () => console.log(JSON.stringify({ listening: settings.port })))

for await (const line of lines) {
  const { command, ...given } = JSON.parse(line)
  console.log(JSON.stringify(await commands[command](given) ?? {}))
}
process.exit()
