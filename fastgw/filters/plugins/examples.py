"""An example of each filter and of each part of a configuration, for the reference documentation.

Each is a few lines of YAML that `fastgw check` accepts once `version` and `listeners` are added; tests see to that.
"""

from collections.abc import Mapping
from typing import Final

FILTERS: Final[Mapping[str, str]] = {
    "request_id": """\
filters:
  request_id: {header: X-Correlation-Id, trust_client: false}
""",
    "https_redirect": """\
listeners:
  plain: {address: ":80", filters: {https_redirect: {exceptions: ["/.well-known/acme-challenge/*"]}}}
""",
    "ip": """\
filters:
  office: {type: ip, allow: [10.0.0.0/8, "2001:db8::/32"], deny: [10.6.6.6]}
""",
    "cors": """\
filters:
  cors: {origins: ["https://app.example", "https://*.app.example"], credentials: true, max_age: 10m}
""",
    "security_headers": """\
filters:
  security_headers: {preset: strict, content_security_policy: "default-src 'self'"}
""",
    "jwt": """\
filters:
  jwt:
    issuer: https://idp.example
    jwks_uri: https://idp.example/keys
    algorithms: [RS256]
    audiences: [orders]
""",
    "key_auth": """\
consumers:
  - {name: alice, key_auth: [{key: {env: ALICE_KEY}}]}
filters:
  key_auth: {key_names: [X-Api-Key], hide_credentials: true}
""",
    "basic_auth": """\
filters:
  basic_auth: {htpasswd: users.htpasswd, realm: reports}
""",
    "hmac": """\
consumers:
  - {name: partner, hmac: [{key_id: partner-1, encoding: base64, key: {file: partner.hmac}}]}
filters:
  hmac: {components: ["@method", "@authority", "@path", "@query"], max_age: 1m}
""",
    "certificate_auth": """\
consumers:
  - {name: batch, certificates: [{san: "URI:spiffe://example/batch"}]}
filters:
  certificate_auth: {}
""",
    "introspection": """\
filters:
  introspection:
    url: https://idp.example/introspect
    client_id: gateway
    client_secret: {env: IDP_SECRET}
    scopes: [orders.read]
""",
    "forward_auth": """\
filters:
  forward_auth: {url: "http://127.0.0.1:9100/verify", copy_headers: [X-User], cache: {by: [Authorization]}}
""",
    "oidc": """\
filters:
  oidc:
    issuer: https://idp.example
    login: {client_id: app, client_secret: {env: OIDC_SECRET}, public_url: "https://app.example",
            session: {secret: {env: SESSION_SECRET}}}
""",
    "auth": """\
filters:
  auth:
    any_of:
      - key_auth: {}
      - basic_auth: {htpasswd: users.htpasswd}
""",
    "authorize": """\
filters:
  key_auth: {}
  authorize: {groups: {any: [staff, partners], none: [suspended]}}
""",
    "rate_limit": """\
filters:
  rate_limit: {limit: 100, window: 1m, burst: 20, key: ip, exempt: [10.0.0.0/8]}
""",
    "quota": """\
filters:
  key_auth: {}
  quota: {limit: 1000, period: month, time_zone: Europe/Berlin, groups: {gold: {limit: 1000000}}}
""",
    "concurrency": """\
upstreams:
  reports:
    targets: ["http://127.0.0.1:9000"]
    filters: {concurrency: {limit: 50, retry_after: 2s}}
""",
    "size": """\
filters:
  size: {body: 10MiB}
""",
    "egress_calls": """\
routes:
  - {name: api, upstream: "https://api.example", filters: {egress_calls: {user_agent: pass}}}
""",
    "unknown_service": """\
routes:
  - {name: unknown, respond: {status: 404}, filters: {unknown_service: {apps: [shop], addressing: path}}}
""",
    "headers": """\
filters:
  headers:
    request: {set: {X-Client: "{client_ip}"}, remove: [X-Debug]}
    response: {remove: [Server]}
""",
    "response_urls": """\
routes:
  - {name: api, paths: ["/api/*"], strip_prefix: /api, upstream: "http://127.0.0.1:9000",
     filters: {response_urls: {urls: ["http://127.0.0.1:9000"], path: /api, cookies: rewrite}}}
""",
    "target_errors": """\
filters:
  target_errors: {statuses: ["500-599"], status: 502, header: Target-System-Status}
""",
    "mirror": """\
upstreams:
  users_v2: {targets: ["http://127.0.0.1:9002"]}
routes:
  - {name: users, upstream: "http://127.0.0.1:9001", filters: {mirror: {upstream: users_v2, share: 10%, compare: true}}}
""",
    "credentials": """\
filters:
  credentials:
    oauth2: {token_url: "https://idp.example/token", client_id: gateway, client_secret: {env: CLIENT_SECRET}}
""",
    "request_parameters": """\
filters:
  request_parameters: {headers: {X-Tenant: t1}, query: {api-version: "2024-10-01"}}
""",
}
"""By type."""

SETTINGS: Final[Mapping[str, str]] = {
    "version": "version: 1\n",
    "workers": "workers: 4\n",
    "include": 'include: ["routes/*.yaml"]\n',
    "extensions": "extensions: []       # such as [fastgw-read-only], once that package is installed\n",
    "listeners": """\
listeners:
  public:
    address: ":443"
    trusted_proxies: [10.0.0.0/8]
    tls: {certificates: [{certificate: api.pem, key: api.key}]}
""",
    "status": 'status: {address: "127.0.0.1:9902"}\n',
    "admin": 'admin: {address: "127.0.0.1:9901", token: {env: ADMIN_TOKEN}}\n',
    "timeouts": "timeouts: {request_headers: 5s, keepalive: 60s, drain: {delay: 5s, requests: 30s}}\n",
    "limits": "limits: {body_bytes: 10MiB, connections: 50000, connections_per_ip: 200}\n",
    "access_logs": "access_logs: [{sink: access.log, format: json, redact: [ticket]}]\n",
    "log": "log: {format: json, level: warning}\n",
    "upstreams": """\
upstreams:
  users:
    targets: [{url: "http://127.0.0.1:9001", weight: 3}, {url: "http://127.0.0.1:9002"}]
    load_balancing: {algorithm: least_connections}
    health_checks: {active: {path: /healthz, interval: 5s}}
    circuit_breaker: {error_rate: 50%}
""",
    "filter_sets": """\
filter_sets:
  browsers: {cors: {origins: ["https://app.example"]}, security_headers: {preset: api}}
routes:
  - {name: api, upstream: "http://127.0.0.1:9000", use: [browsers]}
""",
    "filters": "filters: {blocked: {type: ip, deny: [203.0.113.0/24], enforced: true}}\n",
    "consumers": """\
consumers:
  - {name: alice, groups: [staff], key_auth: [{key: {env: ALICE_KEY}}]}
filters: {key_auth: {}}
""",
    "consumer_files": 'consumer_files: ["consumers/*.yaml"]\n',
    "state": "state: {url: {env: REDIS_URL}, when_away: local}\n",
    "quotas": "quotas: {file: quotas.sqlite3}\n",
    "egress": """\
egress:
  apps:
    shop:
      orders: {url: "https://api.example/v2", credentials: {type: basic, username: shop, password: {file: orders}}}
""",
    "providers": "providers: {kyma: {directory: apps, namespace: kyma-system}}\n",
    "routes": """\
routes:
  - {name: user, hosts: [api.example], paths: ["/users/{id}"], methods: [GET], upstream: "http://127.0.0.1:9001"}
  - {name: moved, paths: ["/old/{rest:path}"], redirect: {to: "/{rest}"}}
  - {name: hello, paths: ["/"], respond: {body: "hello\\n"}}
""",
}
"""By the first key of the settings."""
