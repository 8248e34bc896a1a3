"""Examples of each filter and of each part of a configuration, for the reference documentation.

Each is a few lines of YAML that `fastgw check` accepts once `version` and `listeners` are added; a test checks that.
"""

from collections.abc import Mapping
from typing import Final

FILTERS: Final[Mapping[str, str]] = {
    "request_id": """\
filters:
  request_id: {header: X-Correlation-Id, trust_client: false}
""",
    "cache": """\
filters:
  cache: {ttl_by_status: {404: 10s}, stale_if_error: 1h, key: {query: {except: ["utm_*"]}}}
""",
    "https_redirect": """\
listeners:
  plain: {address: ":80", filters: {https_redirect: {exceptions: ["/.well-known/acme-challenge/*"]}}}
""",
    "misdirected": """\
filters:
  misdirected: {groups: [["api.example.com"], ["*.example.com"]]}
""",
    "ip": """\
filters:
  office: {type: ip, allow: [10.0.0.0/8, "2001:db8::/32"], deny: [10.6.6.6]}
  blocked: {type: ip, deny_lists: [{url: "https://www.spamhaus.org/drop/drop.txt", interval: 12h}]}
""",
    "cors": """\
filters:
  cors: {origins: ["https://app.example", "https://*.app.example"], credentials: true, max_age: 10m}
""",
    "security_headers": """\
filters:
  security_headers: {preset: strict, content_security_policy: "default-src 'self'"}
""",
    "compress": """\
filters:
  compress: {encodings: [zstd, br, gzip], min_bytes: 1KiB}
""",
    "decompress": """\
filters:
  decompress: {max_bytes: 10MiB, encodings: [gzip, zstd]}
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
  forward_auth: {url: "http://127.0.0.1:9100/verify", copy_headers: [X-User], cache: {key_headers: [Authorization]}}
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
    "all_of": """\
filters:
  auth:
    any_of:
      - all_of: {methods: [{key_auth: {}}, {certificate_auth: {}}]}
      - basic_auth: {htpasswd: users.htpasswd}
""",
    "authorize": """\
filters:
  key_auth: {}
  authorize: {groups: {any: [staff, partners], none: [suspended]}}
""",
    "rate_limit": """\
filters:
  rate_limit: {limit: 100, window: 1m, key: ip, exempt: [10.0.0.0/8]}
""",
    "quota": """\
filters:
  key_auth: {}
  quota: {limit: 1000, period: month, time_zone: Europe/Berlin, groups: {gold: {limit: 1000000}}}
""",
    "websocket": """\
filters:
  websocket: {message_bytes: 64KiB, rate: 100/s, idle: 1m, ping: 20s, origins: ["https://app.example"]}
""",
    "graphql": """\
filters:
  graphql: {max_depth: 8, max_cost: 500, costs: {search: 50}, max_aliases: 10, operations: [Home, Product]}
""",
    "sequence": """\
filters:
  sequence: {routes: [cart, address, pay], within: 15m, key: consumer}
""",
    "bandwidth": """\
filters:
  bandwidth: {rate: 1MiB/s, request_rate: 512KiB/s, burst: 256KiB, key: consumer}
""",
    "fault": """\
filters:
  fault: {delay: {time: 2s, percent: 10%}, abort: {status: 503, percent: 5%}, header: {name: X-Test, value: chaos}}
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
    "grpc_transcode": """\
upstreams: {bookstore: {targets: ["http://127.0.0.1:50051"], protocol: grpc}}
routes:
  - {name: bookstore, upstream: bookstore, filters: {grpc_transcode: {descriptors: api.pb}}}
""",
    "grpc_web": """\
upstreams: {greeter: {targets: ["http://127.0.0.1:50051"], protocol: grpc}}
routes:
  - {name: greeter, grpc: {service: helloworld.Greeter}, upstream: greeter, filters: {grpc_web: {}}}
""",
    "connect_rpc": """\
upstreams: {greeter: {targets: ["http://127.0.0.1:50051"], protocol: grpc}}
routes:
  - name: greeter
    paths: ["/helloworld.Greeter/*"]
    upstream: greeter
    filters: {connect_rpc: {get: [SayHello]}}
""",
    "waf": """\
filters:
  waf:
    paranoia: 1
    threshold: 5
    custom: [{id: 10001, pattern: "/old-admin/", targets: [path], severity: critical, tags: [legacy]}]
    exclude: [{rules: [4201], paths: ["/reports/*"], arguments: [filter]}]
""",
    "validate": """\
filters:
  validate:
    body: {inline: {type: object, required: [sku], properties: {sku: {type: string}}}, max_bytes: 64KiB}
    query: {inline: {properties: {page: {type: integer, minimum: 1}}, additionalProperties: false}}
    mode: enforce
""",
    "transform": """\
filters:
  transform:
    request: {input: form, json: {default: {currency: EUR}, set: {tenant: "{claims.tenant}"}}, max_bytes: 64KiB}
    response: {json: {allow: [id, items], deny: [items.*.note], rename: {id: number}, move: {items: order.items}}}
""",
    "openapi": """\
routes:
  - openapi: {file: shop.yaml, upstream: "http://127.0.0.1:9000", validate: enforce}
""",
    "openapi_document": """\
routes:
  - openapi: {file: shop.yaml, upstream: "http://127.0.0.1:9000", docs: /docs} # served by openapi_document
""",
    "query_parameters": """\
filters:
  query_parameters: {remove: [debug], rename: {q: query}, set: {tenant: "{claims.tenant}"}, add: {via: "{listener}"}}
""",
    "headers": """\
filters:
  headers:
    maps: {tier: {source: "{header.X-Plan}", values: {gold: "1", "~^silver": "2"}, default: "3"}}
    request: {set: {X-Client: "{client_ip}", X-Tier: "{map.tier}"}, rename: {X-Token: X-Api-Token}, remove: [X-Debug]}
    response: {remove: [Server], set_if_absent: {Cache-Control: no-store}}
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
"""Examples by filter type."""

SETTINGS: Final[Mapping[str, str]] = {
    "version": "version: 1\n",
    "workers": "workers: 4\n",
    "include": 'include: ["routes/*.yaml"]\n',
    "extensions": "extensions: []       # such as [fastgw-read-only], once that package is installed\n",
    "listeners": """\
listeners:
  public: {address: ":443", tls: {certificates: [{certificate: api.pem, key: api.key}]}}
  balanced:
    address: "127.0.0.1:8080"
    protocols: [http1, http2]
    trusted_proxies: [10.0.0.0/8]
    proxy_protocol: required
    proxy_protocol_senders: [10.0.1.0/24]
    scheme: https
    reserved_headers: [Proxy, X-Client-IP, X-SSL-*]
    unreserved_headers: [X-Client-IP]
    ambiguous_paths: refuse
    tolerate_utf8_targets: false
    half_close: serve
    http2: {max_concurrent_streams: 100, stream_window: 4MiB, connection_window: 16MiB}
    filters: {request_id: {trust_client: false}}
    error_pages: {"404": {file: missing.html}, "5xx": {html: "<h1>{title}</h1>", json: null}}
  database: {address: "127.0.0.1:5432", protocol: tcp, upstream: postgres}
  passthrough:
    address: ":6432"
    protocol: tls
    routes: [{sni: [db.example.com], alpn: [postgresql], upstream: postgres}]
upstreams:
  postgres: {targets: ["tcp://10.0.0.5:5432"]}
""",
    "listeners.NAME.tls": """\
listeners:
  public:
    address: ":443"
    tls:
      certificates: [{certificate: api.pem, key: api.key}, {certificate: www.pem, key: www.key}]
      profile: intermediate
      min_version: "1.2"
      max_version: "1.3"
      ciphers: [ECDHE-ECDSA-AES128-GCM-SHA256, ECDHE-RSA-AES128-GCM-SHA256]
      groups: [X25519, P-256]
      client_auth: {mode: optional, ca: clients.pem, crl: revoked.pem}
      session_tickets: true
      ocsp_stapling: true
      handshake_timeout: 5s
      on_demand: false
""",
    "listeners.NAME.tls.certificates[]": """\
listeners:
  public:
    address: ":443"
    tls:
      certificates:
        - {certificate: api.pem, key: api.key, hosts: [api.example.com]}
""",
    "listeners.NAME.tls.certificates[].acme": """\
acme: {directory: "https://acme.example/directory", agree: true, storage: /var/lib/fastgw/acme}
listeners:
  plain: {address: ":80"}
  public:
    address: ":443"
    tls:
      certificates:
        - acme: {domains: [api.example.com], challenge: http-01, key: rsa, storage: /var/lib/fastgw/api}
""",
    "listeners.NAME.routes[]": """\
listeners:
  brokers:
    address: ":8883"
    protocol: tcp
    tls: {certificates: [{certificate: gateway.pem, key: gateway.key}]}
    routes:
      - {sni: [mqtt.example.com], upstream: mqtt}
      - {sni: ["*.tenants.example.com"], alpn: [mqtt], upstream: tenants, passthrough: true}
upstreams:
  mqtt: {targets: ["tcp://mqtt.internal:1883"]}
  tenants: {targets: ["tcp://tenants.internal:8883"]}
""",
    "status": 'status: {address: ":9902", hosts: ["*.example.com"]}\n',
    "admin": """\
admin:
  address: "0.0.0.0:9901"
  token: {env: ADMIN_TOKEN}
  tls: {certificates: [{certificate: admin.pem, key: admin.key}]}
  read_only_token: {env: FASTGW_READ_ONLY_TOKEN}
  connections_token: {env: FASTGW_CONNECTIONS_TOKEN}
  document_bytes: 4MiB
  document_time: 1m
  document_memory: 1GiB
""",
    "timeouts": """\
timeouts:
  request_headers: 5s
  request_body_idle: 20s
  request_body_rate: 1KiB
  response_idle: 1m
  keepalive: 60s
  filters: 10s
  drain: {delay: 5s, requests: 30s, tunnels: 2m}
""",
    "limits": """\
limits:
  header_bytes: 16KiB
  header_count: 60
  body_bytes: 10MiB
  connections: 50000
  connections_per_ip: 200
  udp_sessions: 65536
""",
    "access_logs": """\
access_logs:
  - {sink: stdout, format: json}
  - {sink: access.log, format: combined, redact: [ticket]}
  - sink: errors.log
    fields: [time, route, status, fault, duration_s, header.X-Tenant, "caller={consumer}@{client}"]
    only: {status: 5xx}
  - sink: some.log
    sample: 0.1
    sample_routes: {user: 0.01}
    always: {slower_than: 1s}
  - {sink: {syslog: {address: "tcp://logs.internal:514", spool: {path: spool, size: 1GiB}}}}
""",
    "telemetry": """\
telemetry:
  traces:
    otlp: {url: "http://collector:4318"}
    sampling: {ratio: 0.1, slower_than: 1s}
    propagation: [tracecontext, b3]
  slo: {availability: 99.9%, latency: 300ms, latency_share: 95%}
  route_slos: {user: {availability: 99.99%}}
""",
    "telemetry.traces": """\
telemetry:
  traces:
    zipkin: {url: "http://zipkin:9411/api/v2/spans"}
    service: edge
    sampling: {ratio: 0.5}
    propagation: [b3]
    b3: multi
    redact: [ticket]
    server_timing: true
""",
    "telemetry.traces.otlp": """\
telemetry:
  traces:
    otlp:
      url: https://collector.example:4317
      protocol: grpc
      headers: {X-Api-Key: {env: COLLECTOR_KEY}}
      compression: gzip
      timeout: 5s
      tls: {ca: collector-ca.pem}
""",
    "telemetry.traces.zipkin": """\
telemetry:
  traces:
    zipkin:
      url: https://zipkin.example/api/v2/spans
      headers: {Authorization: {env: ZIPKIN_AUTHORIZATION}}
      compression: gzip
      timeout: 5s
      tls: {ca: collector-ca.pem}
""",
    "telemetry.traces.sampling": """\
telemetry:
  traces:
    otlp: {url: "http://collector:4318"}
    sampling: {parent: false, ratio: 0.5, rate: 100, errors: true, slower_than: 500ms}
""",
    "telemetry.metrics": """\
telemetry:
  metrics:
    otlp: {url: "http://collector:4318", interval: 30s}
    statsd: {address: "127.0.0.1:8125", format: dogstatsd, interval: 5s}
    requests: {labels: [upstream, consumer, fault, host]}
    request_duration:
      labels: [route, method, status_class]
      buckets: [10ms, 50ms, 100ms, 300ms, 1s, 10s]
      route_buckets: {user: [1ms, 5ms, 10ms]}
""",
    "telemetry.metrics.otlp": """\
telemetry:
  metrics:
    otlp:
      url: https://collector.example:4317
      protocol: grpc
      headers: {X-Api-Key: {env: COLLECTOR_KEY}}
      compression: gzip
      timeout: 5s
      tls: {ca: collector-ca.pem}
      interval: 30s
      service: edge
""",
    "access_logs[].only": """\
access_logs:
  - sink: errors.log
    only:                                   # each of these has to hold
      status: [5xx, 429]
      method: POST
      route: user
      listener: public
      consumer: [alice, bob]
      fault: true
      slower_than: 250ms
""",
    "access_logs[].sink": """\
access_logs:
  - {sink: {syslog: {address: "tcp://logs.internal:514"}}}
  - {sink: {http: {url: "https://logs.internal/in"}}}
  - {sink: {loki: {url: "http://loki.internal:3100/loki/api/v1/push"}}}
  - {sink: {elasticsearch: {url: "http://search.internal:9200/_bulk", index: web}}, format: ecs}
  - {sink: {otlp: {url: "http://collector:4318"}}}
  - {sink: {kafka: {brokers: ["kafka-1:9092", "kafka-2:9092"], topic: access}}}
  - {sink: {file: {path: access.log, every: 1d, keep: 14, gzip: true}}}
""",
    "access_logs[].sink.file": """\
access_logs:
  - sink:
      file:
        path: access.log
        size: 100MiB
        every: 1d
        keep: 14
        gzip: true
""",
    "access_logs[].sink.kafka": """\
access_logs:
  - sink:
      kafka:
        brokers: ["kafka-1.internal:9093", "kafka-2.internal:9093"]
        topic: access
        acks: leader
        batch: 1000
        gzip: true
        tls: true
        ca: kafka-ca.pem
        certificate: gateway.pem
        key: gateway.key
        sasl: {username: gateway, password: {env: KAFKA_PASSWORD}, mechanism: SCRAM-SHA-256}
        timeout: 5s
        spool: {path: spool, size: 1GiB}
""",
    "access_logs[].sink.syslog": """\
access_logs:
  - sink:
      syslog:
        address: "tcp://logs.internal:514"
        facility: local3
        app_name: gateway
        timeout: 2s
        spool: {path: spool, size: 1GiB}
""",
    "access_logs[].sink.http": """\
access_logs:
  - sink:
      http:
        url: "https://logs.internal/in"
        batch: 1000
        gzip: true
        token: {env: LOGS_TOKEN}            # or username: and password:
        ca: logs-ca.pem
        certificate: gateway.pem            # for servers that ask for one
        key: gateway.key
        timeout: 5s
        spool: {path: spool, size: 1GiB}
""",
    "access_logs[].sink.loki": """\
access_logs:
  - sink:
      loki:
        url: "https://loki.internal:3100/loki/api/v1/push"
        labels: {env: prod}
        batch: 1000
        gzip: true
        token: {env: LOGS_TOKEN}            # or username: and password:
        ca: logs-ca.pem
        certificate: gateway.pem            # for servers that ask for one
        key: gateway.key
        timeout: 5s
        spool: {path: spool, size: 1GiB}
""",
    "access_logs[].sink.elasticsearch": """\
access_logs:
  - format: ecs
    sink:
      elasticsearch:
        url: "https://search.internal:9200/_bulk"
        index: web
        batch: 1000
        gzip: true
        token: {env: LOGS_TOKEN}            # or username: and password:
        ca: logs-ca.pem
        certificate: gateway.pem            # for servers that ask for one
        key: gateway.key
        timeout: 5s
        spool: {path: spool, size: 1GiB}
""",
    "access_logs[].sink.otlp": """\
access_logs:
  - sink:
      otlp:
        url: "https://collector.example:4318"
        protocol: http
        service: edge
        batch: 1000
        gzip: true
        token: {env: LOGS_TOKEN}            # or username: and password:
        ca: logs-ca.pem
        certificate: gateway.pem            # for servers that ask for one
        key: gateway.key
        timeout: 5s
        spool: {path: spool, size: 1GiB}
""",
    "log": "log: {format: json, level: warning}\n",
    "upstreams": """\
upstreams:
  users:
    targets:
      - {url: "http://127.0.0.1:9001", weight: 3}
      - {url: "http://127.0.0.1:9002", priority: 1}
    resolve: {interval: 10s}
    host_header: preserve
    protocol: http2
    hedge: {after: 100ms, max: 1}
    filters: {concurrency: {limit: 100}}
  old:
    targets: ["http://127.0.0.1:9003"]
    tolerate: [content_length_with_chunked, bare_lf]
    response_limits: {header_bytes: 256KiB, header_count: 400}
  listed: {targets: {file: targets.yaml}}
  postgres: {targets: ["tcp://10.0.0.5:5432"], proxy_protocol: v2}
  found: {targets: {srv: _http._tcp.users.internal, scheme: https, interval: 10s}}
  registered: {targets: {eureka: USERS, scheme: http}}
  contained: {targets: {docker: users, port: 8080, scheme: http}}
providers: {eureka: {address: "http://eureka:8761/eureka"}, docker: {}}
""",
    "upstreams.NAME.targets{dns}": """\
upstreams:
  users: {targets: {dns: users.internal, port: 9000, scheme: http, interval: 10s}}
""",
    "upstreams.NAME.targets{consul}": """\
providers: {consul: {address: "http://127.0.0.1:8500"}}
upstreams:
  users: {targets: {consul: users, tags: [v2], datacenter: dc1, scheme: http}}
""",
    "upstreams.NAME.targets{nacos}": """\
providers: {nacos: {address: "http://nacos:8848/nacos"}}
upstreams:
  users: {targets: {nacos: users, group: DEFAULT_GROUP, clusters: [DEFAULT], scheme: http}}
""",
    "upstreams.NAME.load_balancing": """\
upstreams:
  cache:
    targets: ["http://127.0.0.1:9001", "http://127.0.0.1:9002"]
    load_balancing:
      algorithm: consistent_hash
      hash_on: "header:X-Tenant"
      load_factor: 1.5
      spill_below: 50%
      panic_threshold: 30%
  shop:
    targets: ["http://127.0.0.1:9003", "http://127.0.0.1:9004"]
    load_balancing: {algorithm: latency, decay: 5s, slow_start: 30s}
""",
    "upstreams.NAME.load_balancing.sticky": """\
upstreams:
  shop:
    targets: ["http://127.0.0.1:9003", "http://127.0.0.1:9004"]
    load_balancing:
      sticky: {cookie: shop_target, ttl: 12h, path: /, secure: true, same_site: lax, key: {env: STICKY_KEY}}
""",
    "upstreams.NAME.timeouts": """\
upstreams:
  users:
    targets: ["https://users.example"]
    timeouts: {connect: 1s, tls: 2s, response_headers: 10s, idle: 30s, tunnel_idle: 10m, total: 5m}
""",
    "upstreams.NAME.pool": """\
upstreams:
  users:
    targets: ["http://127.0.0.1:9001"]
    pool:
      max_connections: 200
      max_idle: 100
      idle_timeout: 30s
      max_pending: 500
      pending_timeout: 2s
      max_uses: 10000
""",
    "upstreams.NAME.retries": """\
upstreams:
  users:
    targets: ["http://127.0.0.1:9001", "http://127.0.0.1:9002"]
    retries:
      max: 2
      conditions: [connect_failure, reset_before_response, per_try_timeout, "503"]
      budget: 10%
      non_idempotent: false
      per_try_timeout: 2s
      backoff: {base: 25ms, max: 250ms}
      body_bytes: 256KiB
""",
    "upstreams.NAME.health_checks": """\
upstreams:
  users:
    targets: ["http://127.0.0.1:9001", "http://127.0.0.1:9002"]
    health_checks: {active: {path: /healthz}, passive: {failures: 5}}
""",
    "upstreams.NAME.health_checks.active": """\
upstreams:
  users:
    targets: ["http://127.0.0.1:9001", "http://127.0.0.1:9002"]
    health_checks:
      active:
        {type: http, path: /healthz, method: GET, host: users.internal, headers: {X-Check: "1"}, port: 9100,
         interval: 5s, timeout: 1s, healthy_threshold: 2, unhealthy_threshold: 3,
         expected_statuses: ["200-299"], expected_body: ok}
  greeter:
    targets: ["http://127.0.0.1:50051"]
    protocol: grpc
    health_checks: {active: {type: grpc, service: helloworld.Greeter}}
""",
    "upstreams.NAME.health_checks.passive": """\
upstreams:
  users:
    targets: ["http://127.0.0.1:9001", "http://127.0.0.1:9002"]
    health_checks:
      passive:
        {failures: 5, connect_failures: 1, window: 10s, error_rate: 50%, min_requests: 20,
         eject: 5s, max_eject: 5m, max_ejected: 50%}
""",
    "upstreams.NAME.circuit_breaker": """\
upstreams:
  users:
    targets: ["http://127.0.0.1:9001"]
    circuit_breaker: {error_rate: 50%, min_requests: 20, window: 10s, open: 5s, probes: 3}
""",
    "upstreams.NAME.tls": """\
upstreams:
  orders:
    targets: ["https://10.0.0.7:8443"]
    tls: {ca: internal.pem, server_name: orders.internal, certificate: gateway.pem, key: gateway.key, verify: true,
          subject_alt_names: ["DNS:orders.internal", "URI:spiffe://internal/orders"],
          min_version: "1.2", ciphers: [ECDHE-ECDSA-AES128-GCM-SHA256]}
""",
    "maps": """\
maps:
  tier:
    source: "{claim.plan}"
    values: {gold: fast, "~^trial": slow}
    default: normal
routes:
  - {name: api, paths: ["/api/*"], upstream: "http://127.0.0.1:9000", rewrite: "/{map.tier}/{path}"}
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
  - name: alice
    groups: [staff]
    key_auth: [{key: {env: ALICE_KEY}}, {key_sha256: 5e78863ed1ffb9fc66b1d61634b126bf8eb20267e7996297eeeb9b19c8c0f732}]
    basic_auth: [{username: alice, password: {file: alice.password}}]
    jwt: [{issuer: "https://idp.example", subject: "248289761001"}]
    certificates:
      - {subject: "CN=alice,O=Example"}
      - {san: "URI:spiffe://example/alice"}
      - {fingerprint_sha256: 5e78863ed1ffb9fc66b1d61634b126bf8eb20267e7996297eeeb9b19c8c0f732}
  - {name: shop.carol, namespace: shop, key_auth: [{key: {env: CAROL_KEY}}]}   # of one namespace
""",
    "consumers[].jwt[]": """\
consumers:
  - name: alice
    jwt:
      - {issuer: "https://idp.example", subject: "248289761001"}
      - {key_id: alice-1, algorithm: HS256, key: {env: ALICE_JWT_SECRET}, secret_is_base64: false}
      - {key_id: alice-2, algorithm: HS256, key: {file: alice-2.secret}}
""",
    "consumers[].hmac[]": """\
consumers:
  - {name: partner, hmac: [{key_id: partner-1, algorithm: hmac-sha256, encoding: base64, key: {file: partner.hmac}}]}
""",
    "error_pages": """\
error_pages:
  "404": {file: pages/404.html}
  "5xx": {html: "<h1>{status} {title}</h1>", json: '{"error": "{fault}", "id": "{request_id}"}'}
""",
    "consumer_files": 'consumer_files: ["consumers/*.yaml"]\n',
    "acme": """\
acme:
  email: ops@example.com
  directory: "https://acme.example/directory"
  ca: issuer-ca.pem
  external_account: {key_id: account-1, key: {file: account.key}}
  dns_hook: {command: [/usr/local/bin/set-record, --zone=example.com], timeout: 1m}
  agree: true
  storage: /var/lib/fastgw/acme
  shared_secret: {env: ACME_SHARED_SECRET}
state: {url: "redis://redis.internal:6379/0"}
listeners:
  public: {address: ":443", tls: {certificates: [{acme: {domains: [api.example.com], challenge: tls-alpn-01}}]}}
""",
    "acme.on_demand": """\
acme:
  directory: "https://acme.example/directory"
  agree: true
  storage: /var/lib/fastgw/acme
  on_demand:
    allow: [shop.example.net, "*.shops.example.com"]
    ask: "http://127.0.0.1:9100/may-have-a-certificate"
    ask_timeout: 2s
    challenge: http-01
    key: ecdsa
    names: 5000
    orders_per_hour: 100
    orders_at_once: 8
    wait: 5s
    refused_for: 10m
    unused_for: 60d
listeners:
  plain: {address: ":80"}
  public: {address: ":443", tls: {certificates: [{acme: {domains: [example.com]}}], on_demand: true}}
""",
    "acme.fallback[]": """\
acme:
  email: ops@example.com
  directory: "https://acme.example/directory"
  agree: true
  storage: /var/lib/fastgw/acme
  fallback:
    - directory: "https://acme.internal/directory"
      ca: issuer-ca.pem
      external_account: {key_id: account-1, key: {file: account.key}}
""",
    "vault": """\
vault:
  address: https://vault.example:8200
  auth: {approle: {role_id: {env: VAULT_ROLE_ID}, secret_id: {file: /run/fastgw/secret-id}, mount: approle}}
  mount: secret
  namespace: team
  interval: 60s
  timeout: 5s
  tls: {ca: /etc/fastgw/vault-ca.pem}
""",
    "vault.auth": """\
vault:
  address: https://vault.example:8200
  auth: {approle: {role_id: {env: VAULT_ROLE_ID}, secret_id: {file: /run/fastgw/secret-id}, mount: approle}}
  # or kubernetes: {role: gateway, token_file: /run/secrets/token, mount: kubernetes}
  # or token: {file: /run/vault/token}
""",
    "state": "state: {url: {env: REDIS_URL}, when_away: local, timeout: 100ms, prefix: fastgw}\n",
    "quotas": "quotas: {file: quotas.sqlite3}\n",
    "analytics": "analytics: {path: /var/lib/fastgw/analytics.db, keep: 30d, size: 512MiB}\n",
    "stories": "stories: {slower_than: 500ms, keep: 1000}\n",
    "audit": "audit: {path: /var/log/fastgw/audit.log}\n",
    "caches": "caches:\n  main: {memory: 256MiB, max_object: 16MiB, disk: {path: cache, size: 20GiB}, redis: false}\n",
    "egress": """\
listeners:
  apps: {address: "127.0.0.1:8080"}
  hosts: {address: "127.0.0.1:8081"}
consumers: [{name: shop, key_auth: [{key: {env: SHOP_KEY}}]}]
egress:
  listeners: {apps: path, hosts: host}     # one listener: `listener: apps` and `addressing: path`
  domains: [apps.internal]
  authentication: {key_auth: {}}
  access_token_header: Access-Token
  user_agent: pass
  via: off
  target_errors: pass
  apps: {shop: {consumers: [shop], orders: {url: "https://api.example/v2"}}}
""",
    "egress.apps.NAME.NAME": """\
egress:
  apps:
    shop:
      orders:
        url: https://api.example/v2
        credentials: {type: bearer, token: {file: orders.token}}
        csrf: {token_url: "https://api.example/v2/csrf"}
        request_parameters: {headers: {X-Tenant: t1}, query: {client: "100"}, query_first: "version=2"}
        parameters_for_token: false
        forwarded: append
        forwarded_header: true
        tls: {ca: company.pem}
        tolerate: [repeated_content_length]
        response_limits: {header_bytes: 256KiB, header_count: 400}
        cookies: rewrite
        host: orders.internal
        use: []
        filters: {size: {body: 1MiB}}
      invoices: {entries: {v1: {url: "https://api.example/v1"}, v2: {url: "https://api.example/v2"}}}
      parked: {url: "https://old.example", unavailable: "moved to invoices"}
      unclear: {url: "https://old.example", ambiguous: "two APIs have this name"}
""",
    "egress.apps.NAME.NAME.credentials": """\
egress:
  apps:
    shop:
      orders:
        url: https://api.example/v2
        credentials:
          {type: oauth2, token_url: "https://idp.example/token", client_id: shop, client_secret: {file: orders.secret},
           client_auth: body, scopes: [orders.read], audience: orders, token_headers: {X-Zone: z1},
           token_query: {tenant: t1}, token_tls: {ca: company.pem}, token_tolerate: [repeated_content_length],
           second_level: {env: REDIS_URL}}
      stock:
        url: https://stock.example
        credentials:
          {type: oauth2, token_url: "https://idp.example/token", client_id: shop, client_auth: private_key_jwt,
           client_key: {file: shop.key}, assertion_audience: "https://idp.example"}
      users: {url: "https://users.example", credentials: {type: basic, username: shop, password: {file: users.secret}}}
      notes: {url: "https://notes.example", credentials: {type: bearer, token: {file: notes.token}}}
      maps: {url: "https://maps.example", credentials: {type: headers, headers: {X-API-Key: {file: maps.key}}}}
      files: {url: "https://files.example", credentials: {type: certificate, certificate: shop.pem, key: shop.pem.key}}
      report:
        url: "https://report.example"
        credentials: {type: gcp_id_token, audience: "https://report.example", service_account_key: {file: report.json}}
      jobs:
        url: "https://jobs.example"
        credentials:
          {type: token_exchange, token_url: "https://sts.example/token", subject_token: {file: workload.token},
           subject_token_type: jwt, requested_token_type: access_token, resource: "https://jobs.example/"}
""",
    "egress.apps.NAME.NAME.credentials.aws": """\
egress:
  apps:
    shop:
      archive:
        url: "https://archive.s3.eu-central-1.amazonaws.com"
        credentials:
          type: aws_sigv4
          aws:
            region: eu-central-1
            service: s3
            access_key_id: {env: AWS_ACCESS_KEY_ID}
            secret_access_key: {env: AWS_SECRET_ACCESS_KEY}
            session_token: {env: AWS_SESSION_TOKEN}
            sign_body: false
            body_bytes: 1MiB
""",
    "egress.apps.NAME.NAME.csrf": """\
egress:
  apps:
    shop:
      orders:
        url: https://api.example/v2
        csrf:
          {token_url: "https://api.example/csrf", tls: {ca: company.pem}, tolerate: [bare_lf], timeout: 3s,
           negative_ttl: 1s}
""",
    "egress.apps.NAME.NAME.timeouts": """\
egress:
  apps:
    shop:
      orders:
        url: https://api.example/v2
        timeouts: {connect: 3s, tls: 3s, response_headers: 60s, idle: 1m, tunnel_idle: 10m, total: 5m}
""",
    "egress.apps.NAME.NAME.retries": """\
egress:
  apps:
    shop:
      orders:
        url: https://api.example/v2
        retries:
          {max: 2, conditions: [connect_failure, per_try_timeout, "503"], budget: 20%, non_idempotent: false,
           per_try_timeout: 5s, backoff: {base: 25ms, max: 1s}, body_bytes: 256KiB}
""",
    "egress.apps.NAME.NAME.entries.NAME": """\
egress:
  listener: main
  addressing: path_with_entry
  apps:
    shop:
      orders:
        entries:
          v1:
            url: https://api.example/v1
            credentials: {type: bearer, token: {file: v1.token}}
            csrf: {token_url: "https://api.example/v1/csrf"}
            request_parameters: {headers: {X-Tenant: t1}, query: {client: "100"}, query_first: "version=1"}
            parameters_for_token: false
            forwarded: append
            forwarded_header: true
            timeouts: {connect: 3s}
            retries: {max: 0}
            tls: {ca: company.pem}
            tolerate: [repeated_content_length]
            response_limits: {header_bytes: 256KiB, header_count: 400}
            cookies: rewrite
            host: orders-v1.internal
            use: []
            filters: {size: {body: 1MiB}}
          v2: {url: "https://api.example/v2", unavailable: "not open yet"}
          v3: {url: "https://api.example/v3", ambiguous: "two APIs have this name"}
""",
    "providers": "providers: {kyma: {directory: apps, namespace: kyma-system}}\n",
    "providers.kyma": """\
providers:
  kyma:
    kubernetes: {kubeconfig: kubeconfig.yaml, context: dev}     # or `directory: apps`; in a pod: {}
    namespace: kyma-system
    secrets: [orders-secret]                                       # with a listener of `addressing: secret`
    allow_local: false
    second_level: {env: REDIS_URL}
    services: create                                               # with a listener of `addressing: host`
    services_namespace: kyma-integration
    services_gateway: fastgw-egress.kyma-system.svc.cluster.local
    defaults: {timeouts: {connect: 3s}}
""",
    "providers.kyma.defaults": """\
filter_sets: {small: {size: {body: 1MiB}}}
providers:
  kyma:
    directory: apps
    defaults:
      timeouts: {connect: 3s, response_headers: 60s}
      retries: {body_bytes: 256KiB}
      tls: {ca: company.pem}
      tolerate: [repeated_content_length]
      response_limits: {header_bytes: 256KiB, header_count: 400}
      use: [small]
      filters: {target_errors: null}
""",
    "providers.consul": """\
providers:
  consul:
    address: https://consul.example:8501
    token: {file: /run/fastgw/consul-token}
    namespace: shop
    wait: 5m
    tls: {ca: /etc/fastgw/consul-ca.pem}
upstreams:
  users: {targets: {consul: users, tags: [v2], datacenter: dc1, scheme: http}}
""",
    "providers.nacos": """\
providers:
  nacos:
    address: http://nacos.example:8848/nacos
    namespace: shop
    username: gateway
    password: {env: NACOS_PASSWORD}
    interval: 5s
    tls: {}
upstreams:
  users: {targets: {nacos: users, group: DEFAULT_GROUP, clusters: [DEFAULT], scheme: http}}
""",
    "providers.eureka": """\
providers:
  eureka:
    address: http://eureka.example:8761/eureka
    username: gateway
    password: {env: EUREKA_PASSWORD}
    interval: 10s
    tls: {}
upstreams:
  users: {targets: {eureka: USERS, scheme: http}}
""",
    "providers.docker": """\
providers:
  docker: {address: "unix:/var/run/docker.sock", network: shop, tls: {}}
upstreams:
  users: {targets: {docker: users, port: 8080, scheme: http}}
""",
    "providers.kubernetes": """\
providers:
  kubernetes:
    kubeconfig: kubeconfig.yaml     # in a pod: left out
    context: dev
    namespaces: [shop, infra]
    gateway_class: fastgw
    ingress_class: fastgw
    shared_consumers: [infra]
    addresses: {pool: [127.0.0.2-127.0.0.99]}     # in a cluster: {service: fastgw}
    port_offset: 8000
""",
    "routes": """\
filter_sets: {small: {size: {body: 1MiB}}}
routes:
  - name: user
    listeners: [main]
    hosts: [api.example.com, "*.example.org"]
    paths: ["/users/{id}"]
    trailing_slash: same
    methods: [GET, PUT]
    head: separate
    rank: 2
    headers: {X-Version: "2", X-Client: {prefix: ios-}, X-Debug: {present: false}}
    query: {format: json, fields: {regex: "^[a-z,]+$"}}
    cookies: {tier: {exact: gold}}
    clients: [10.0.0.0/8]
    priority: 10
    upstream: "http://127.0.0.1:9001"
    rewrite: "/internal/users/{id}"
    host_header: users.internal
    proxy_redirect: off
    slo: {availability: 99.9%, latency: 300ms, latency_share: 95%}
    forwarded: set
    forwarded_header: true
    via: off
    upgrade: []
    timeout: 10s
    deadline_header: X-Request-Timeout
    use: [small]
    filters: {request_id: off}
  - {name: files, paths: ["/files/*"], upstream: "http://127.0.0.1:9002", strip_prefix: /files, add_prefix: /public,
     path: {forward: raw, encoded_slash: keep, root: bare}}
  - {name: moved, paths: ["/old/{rest:path}"], redirect: {status: 301, to: "/{rest}"}}
  - {name: hello, paths: ["/"], respond: {status: 200, body: "<p>hello", headers: {Content-Type: text/html}},
     error_pages: {"4xx": {file: denied.html}, "5xx": {html: "<h1>{title}</h1>", json: null}}}
  - {name: greeter, grpc: {service: helloworld.Greeter, methods: [SayHello]}, respond: {status: 503}}
""",
    "routes[]{openapi}": """\
filter_sets: {small: {size: {body: 1MiB}}}
routes:
  - openapi: {file: shop.yaml, upstream: "http://127.0.0.1:9000"}
    name: shop
    listeners: [main]
    hosts: [api.example.com]
    priority: 10
    strip_prefix: /v1
    timeout: 10s
    timeouts: {total: 1m}
    retries: {max: 1}
    use: [small]
    filters: {request_id: off}
""",
    "routes[]{openapi}.openapi": """\
routes:
  - openapi:
      file: shop.yaml
      upstream: "http://127.0.0.1:9000"
      mock: false
      validate: enforce
      responses: report
      operations: {list: {validate: report, responses: "off"}}
      max_body: 64KiB
      unknown_paths: refuse
      unknown_parameters: refuse
      base_path: /v1
      security: {api_key: {key_auth: {}}}
      docs: /docs
""",
    "routes[].compose": """\
routes:
  - name: dashboard
    paths: ["/dashboard/{id}"]
    compose:
      timeout: 2s
      sequential: false
      output: json
      all_or_nothing: false
      completed_header: Fastgw-Completed
      headers_to_pass: [X-Tenant]
      query_to_pass: [lang]
      static: {strategy: always, data: {source: gateway}}
      flatmap: [{type: append, args: [offers, orders]}]
      max_bytes: 256KiB
      parts:
        - {name: user, upstream: "http://127.0.0.1:9001", path: "/users/{id}", required: true}
        - {name: orders, upstream: "http://127.0.0.1:9002", path: "/orders?user={id}", is_collection: true}
""",
    "routes[].compose.parts[]": """\
routes:
  - name: basket
    paths: ["/baskets/{id}"]
    compose:
      parts:
        - {name: basket, upstream: "http://127.0.0.1:9001", path: "/baskets/{id}", required: true, target: data,
           allow: [items, owner.id], deny: [], mapping: {owner: customer}, group: basket}
        - name: prices
          upstream: "http://127.0.0.1:9002"
          method: POST
          path: "/prices?lang={query.lang}"
          headers: {X-Customer: "{part.basket.data.owner.id}"}
          headers_to_pass: [Authorization]
          query_to_pass: [currency]
          body: {sku: "{item.sku}"}
          after: [basket]
          for_each: "{part.basket.data.items}"
          concurrency: 4
          max: 50
          timeout: 500ms
          encoding: json
          default: {}
          is_collection: false
          wrap: prices
          flatmap: [{type: move, args: [price.amount, amount]}]
        - {name: offers, upstream: "http://127.0.0.1:9003", path: /offers, error_as: "error_{name}"}
""",
    "routes[].lambda": """\
upstreams:
  aws:
    targets: ["https://lambda.eu-central-1.amazonaws.com"]
    filters:
      credentials:
        aws_sigv4:
          region: eu-central-1
          service: lambda
          access_key_id: {env: AWS_ACCESS_KEY_ID}
          secret_access_key: {env: AWS_SECRET_ACCESS_KEY}
routes:
  - name: orders
    paths: ["/orders/{id}"]
    lambda: {upstream: aws, function: orders, qualifier: live, payload_format: "2.0", streaming: false, timeout: 10s,
             max_bytes: 1MiB}
""",
    "routes[].websocket_api": """\
upstreams:
  chat: {targets: ["http://127.0.0.1:9001"]}
routes:
  - name: chat
    paths: [/chat]
    filters: {websocket: {rate: 20/s, idle: 10m, ping: 30s}}
    websocket_api:
      upstream: chat
      select: action
      message_bytes: 32KiB
      concurrency: 1
      timeout: 10s
      connections_url: http://127.0.0.1:9901
      routes:
        $connect: {path: /connected}
        $disconnect: {path: /disconnected}
        $default: {path: /unknown, reply: true}
        history: {path: /history, upstream: "http://127.0.0.1:9002", reply: true}
""",
    "routes[].files": """\
routes:
  - name: site
    paths: ["/*"]
    files: {root: public, index: [index.html], precompressed: [br, zstd, gzip], spa: index.html, listing: false}
""",
    "routes[].timeouts": """\
routes:
  - name: reports
    paths: ["/reports/*"]
    upstream: "http://127.0.0.1:9001"
    timeouts: {response_headers: 2m, idle: 30s, tunnel_idle: 10m, total: 5m}
""",
    "routes[].variants[]": """\
routes:
  - name: shop
    paths: ["/shop/*"]
    split: {by: request}
    variants:
      - {weight: 90, upstream: "http://127.0.0.1:9001", strip_prefix: /shop, add_prefix: /v1}
      - {weight: 9, upstream: "http://127.0.0.1:9002", rewrite: "/v2{path}", host_header: v2.example, use: [preview]}
      - {weight: 1, redirect: {to: "https://new.example/"}}
      - {weight: 0, respond: {status: 503, body: "not yet"}}
filter_sets: {preview: {headers: {response: {set: {X-Preview: "1"}}}}}
""",
    "routes[].redirect": """\
routes:
  - {name: moved, paths: ["/old/*"], redirect: {status: 308, to: "https://new.example/"}}
  - name: parts
    paths: ["/shop/*"]
    redirect: {status: 302, scheme: https, host: shop.example, port: 8443, strip_prefix: /shop, add_prefix: /store}
  - {name: page, paths: ["/page"], redirect: {path: /pages/1}}
""",
    "routes[].retries": """\
routes:
  - name: orders
    paths: ["/orders/*"]
    upstream: "http://127.0.0.1:9001"
    retries:
      max: 2
      conditions: [connect_failure, per_try_timeout, "503"]
      non_idempotent: true
      per_try_timeout: 2s
      backoff: {base: 50ms, max: 1s}
""",
    "routes[].headers.NAME": """\
routes:
  - {name: api, upstream: "http://127.0.0.1:9001",
     headers: {X-A: {exact: "1"}, X-B: {prefix: v2}, X-C: {regex: "^v[0-9]+$"}, X-D: {present: true}}}
""",
    "routes[].split": """\
upstreams: {users: {targets: ["http://127.0.0.1:9001"]}, users_v2: {targets: ["http://127.0.0.1:9002"]}}
routes:
  - name: users
    upstream: {users: 90, users_v2: 10}
    split:
      by: "cookie:client"
      canaries: [{upstream: users_v2, headers: {X-Canary: always}}, {upstream: users, cookies: {canary: never}}]
""",
    "routes[].fallback": """\
upstreams: {users: {targets: ["http://127.0.0.1:9001"]}, users_old: {targets: ["http://127.0.0.1:9002"]}}
routes:
  - {name: users, paths: ["/users/*"], upstream: users,
     fallback: {upstream: users_old, conditions: [unavailable, timeout]}}
  - {name: rest, upstream: users,
     fallback: {respond: {status: 503, body: "Back in a minute.\\n", headers: {Retry-After: "60"}}}}
""",
}
"""Examples by the first key of the settings, and by the name of each group of settings with a section of its own."""
