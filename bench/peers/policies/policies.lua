-- The chain that Kong and APISIX run on this engine, without what they add around it: who is it (a key looked up in the
-- worker's cache, a JWT verified on a miss), has its allowance been spent, and a count and a latency kept afterwards.
--
-- All workers share limits and counters through shared dictionaries; one request makes no table, no closure and no
-- string but its own key. Everything is compiled once, before the workers start.

local base64 = require "ngx.base64"
local cjson = require "cjson.safe"
local ffi = require "ffi"
local lrucache = require "resty.lrucache"
local get_method = ngx.req.get_method

local ngx, now, time, start_time = ngx, ngx.now, ngx.time, ngx.req.start_time
local decode, json = base64.decode_base64url, cjson.decode
local find, sub = string.find, string.sub
local limits, counters = ngx.shared.limits, ngx.shared.counters

ffi.cdef [[
typedef struct bio_st BIO;
typedef struct evp_md_st EVP_MD;
typedef struct evp_md_ctx_st EVP_MD_CTX;
typedef struct evp_pkey_st EVP_PKEY;
BIO *BIO_new_mem_buf(const void *text, int bytes);
int BIO_free(BIO *bio);
EVP_PKEY *PEM_read_bio_PUBKEY(BIO *bio, EVP_PKEY **into, void *password_callback, void *argument);
const EVP_MD *EVP_sha256(void);
EVP_MD_CTX *EVP_MD_CTX_new(void);
int EVP_MD_CTX_reset(EVP_MD_CTX *context);
int EVP_DigestVerifyInit(EVP_MD_CTX *context, void **key_context, const EVP_MD *md, void *engine, EVP_PKEY *key);
int EVP_DigestVerify(EVP_MD_CTX *context, const char *signature, size_t signature_bytes, const char *text, size_t bytes);
void ERR_clear_error(void);
]]
local crypto = ffi.C  -- nginx itself is linked to libcrypto
local context = crypto.EVP_MD_CTX_new()

local SCHEME = "Bearer "
local CACHED_TOKENS = 10000
local BOUNDS = { 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, math.huge }  -- seconds

local policies = {}
local counter_names = {}
local settings, key, cache

-- The names of one route's counters; that of a status is made when it is first seen.
local function names_of(route)
  local of_bucket = {}
  for number, bound in ipairs(BOUNDS) do
    of_bucket[number] = string.format('request_seconds{route="%s",most="%g"}', route, bound)
  end
  local of_status = setmetatable({}, {
    __index = function(names, status)
      names[status] = string.format('requests_total{route="%s",status="%d"}', route, status)
      return names[status]
    end,
  })
  return { of_bucket = of_bucket, of_status = of_status }
end

local function read_key(path)
  local file = assert(io.open(path))
  local text = file:read("*a")
  file:close()
  local bio = crypto.BIO_new_mem_buf(text, #text)
  local key = crypto.PEM_read_bio_PUBKEY(bio, nil, nil, nil)
  crypto.BIO_free(bio)
  assert(key ~= nil, path .. " has no public key")
  return key
end

-- Before the fork. given: key (path of a public key, PEM), issuer, audience; limit: requests of one consumer in each `window` (seconds), unless
-- limit_of[consumer]; routes: their first path elements, {name, ...}.
function policies.init(given)
  settings = given
  key = read_key(given.key)
  cache = assert(lrucache.new(CACHED_TOKENS))
  counter_names[""] = names_of("")
  for _, route in ipairs(given.routes) do counter_names[route] = names_of(route) end
end

-- Whether the first `bytes` of text have been signed (RS256) with the key that belongs to ours.
local function signed(text, bytes, signature)
  if not signature then return false end
  local good = crypto.EVP_DigestVerifyInit(context, nil, crypto.EVP_sha256(), nil, key) == 1
    and crypto.EVP_DigestVerify(context, signature, #signature, text, bytes) == 1
  crypto.EVP_MD_CTX_reset(context)
  crypto.ERR_clear_error()  -- what a bad signature leaves behind would be taken for an error of nginx's own TLS
  return good
end

-- The claims of a token that is signed by us, for us and has not expired; nil for any other.
local function verified(token)
  local _, payload_end, header, payload = find(token, "^([%w_-]+)%.([%w_-]+)%.")
  local claims = payload and json(decode(payload) or "")
  local fields = header and json(decode(header) or "")
  local signature = payload and decode(sub(token, payload_end + 1))
  if type(claims) ~= "table" or type(fields) ~= "table" or fields.alg ~= "RS256" or fields.crit then return nil end
  if not signed(token, payload_end - 1, signature) then return nil end
  if claims.iss ~= settings.issuer or claims.aud ~= settings.audience or type(claims.sub) ~= "string" then return nil end
  if type(claims.exp) ~= "number" or claims.exp <= time() then return nil end
  return claims
end

-- What is remembered of an Authorization field that may pass: its consumer and that one's limit.
local function credential_of(authorization)
  if sub(authorization, 1, #SCHEME) ~= SCHEME then return nil end
  local claims = verified(sub(authorization, #SCHEME + 1))
  if not claims then return nil end
  local credential = { consumer = claims.sub, limit = settings.limit_of[claims.sub] or settings.limit }
  cache:set(authorization, credential, claims.exp - now())
  return credential
end

local function refuse(status, name, value)
  ngx.header[name] = value
  return ngx.exit(status)
end

-- In the access phase.
function policies.access()
  local var = ngx.var
  if get_method() == "OPTIONS" and var.http_access_control_request_method and var.cors_origin ~= "" then
    ngx.header["Access-Control-Allow-Methods"] = "GET, POST"
    ngx.header["Access-Control-Allow-Headers"] = "authorization"
    ngx.header["Access-Control-Max-Age"] = "600"
    return ngx.exit(204)
  end
  local authorization = var.http_authorization
  local credential = authorization and (cache:get(authorization) or credential_of(authorization))
  if not credential then return refuse(401, "WWW-Authenticate", "Bearer") end
  if limits:incr(credential.consumer, 1, 0, settings.window) > credential.limit then
    return refuse(429, "Retry-After", settings.window)
  end
end

-- In the log phase. Paths that are no route's are counted together.
function policies.count()
  local uri = ngx.var.uri
  local slash = find(uri, "/", 2, true)
  local names = counter_names[slash and sub(uri, 2, slash - 1)] or counter_names[""]
  local took = now() - start_time()
  local number = 1
  while took > BOUNDS[number] do number = number + 1 end
  counters:incr(names.of_status[ngx.status], 1, 0)
  counters:incr(names.of_bucket[number], 1, 0)
end

-- All counters as text. Read by people and by the proof before a run, so it may cost what it likes.
function policies.tell()
  for _, name in ipairs(counters:get_keys(0)) do ngx.say(name, " ", counters:get(name)) end
end

return policies
