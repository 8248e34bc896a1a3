"""What a configuration may not say: each mistake is one line, and all of them are told at once."""

import os
from pathlib import Path

import msgspec
import pytest

from fastgw import config
from fastgw.config.base.problems import path_text
from fastgw.filters import TYPES
from fastgw.gateway.compiler import compile

HEAD = "version: 1\nlisteners: {main: {address: '127.0.0.1:80'}}\n"
U = "upstreams: {u: {targets: [{url: 'http://u'}]}}\n"


def lines(folder, text):
    """The problems of a file, without its name."""
    file = folder / "a.yaml"
    file.write_text(text)
    with pytest.raises(config.ConfigError) as caught:
        config.load(str(file), {})
    return [str(problem).removeprefix(f"{file}:").replace(f"{file}", "a.yaml") for problem in caught.value.problems]


def test_the_first_minute(tmp_path):
    assert lines(tmp_path, "version: 1\nroutes: [{name: x, upstrem: u}]\n") == [
        '1:1: listeners: missing; expected at least one, such as {main: {address: "127.0.0.1:8080"}}',
        '2:20: routes[0].upstrem: unknown key; did you mean "upstream"?',
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("zzz: 1", '3:1: zzz: unknown key; expected one of "access_logs", "acme", "'),
        ("workers: 1.5", '3:10: workers: 1.5; expected a whole number from 1 to 1024 or "auto"'),
        ("caches: {a: {memory: 1KiB}}", '3:22: caches.a.memory: "1KiB"; expected a size from 1MiB to 64GiB'),
        ("workers: true", '3:10: workers: true; expected a whole number from 1 to 1024 or "auto"'),
        ("timeouts: null", "3:11: timeouts: null; expected an object"),
        ("timeouts: {keepalive: [1s]}", "3:23: timeouts.keepalive: a list; expected a duration such as"),
        ("timeouts: {drain: {requests: 0s}}", "3:30: timeouts.drain.requests: a duration of zero; expected a duration"),
        ("limits: {header_bytes: 1KB}", '3:24: limits.header_bytes: "1KB"; expected a size from 1KiB to 16MiB'),
        ("limits: {body_bytes: -1}", "3:22: limits.body_bytes: -1; expected a size"),
        ("status: {address: 9902}", "3:19: status.address: 9902; expected"),
        ("status: {address: '127.0.0.1:80'}", "3:19: status.address: 127.0.0.1:80 is already used by a.yaml:2; expect"),
        ("access_logs: stdout", "3:14: access_logs: \"stdout\"; expected a list (each element: an object)"),
        ("access_logs: [{redact: [1]}]", "3:25: access_logs[0].redact[0]: 1 without quotes; expected a string"),
        ("filters: {'a b': {}}", '3:11: filters["a b"]: "a b" is not a name; expected a name of letters'),
        ("filters: {sized: {}}", '3:11: filters.sized: unknown filter type "sized"; none is defined'),
        ("timeouts: {keepalive: 1.5}", '3:23: timeouts.keepalive: 1.5 has no unit; expected a duration such as "1.5s"'),
        ("timeouts: {keepalive: '30'}", '3:23: timeouts.keepalive: "30" has no unit; expected a duration such as "30s'),
        ("timeouts: {keepalive: 0}", '3:23: timeouts.keepalive: 0; expected a duration such as "250ms"'),
        ("timeouts: {keepalive: -5}", '3:23: timeouts.keepalive: -5; expected a duration such as "250ms"'),
        ("timeouts: {keepalive: true}", '3:23: timeouts.keepalive: true; expected a duration such as "250ms"'),
        ("limits: {body_bytes: '1024'}", '3:22: limits.body_bytes: "1024" has no unit; expected a size such as "1024B'),
        ("limits: {body_bytes: 1.5}", "3:22: limits.body_bytes: 1.5; expected a size such as"),
        ("status: off", '3:9: status: "off"; expected an object with "address", or null to disable it'),
        ("status: false", '3:9: status: false; expected an object with "address", or null to disable it'),
        ("admin: false", '3:8: admin: false; expected an object with "address", or null to disable it'),
        ("admin: '127.0.0.1:1'", '3:8: admin: a string; expected an object with "address", or null to disable it'),
        ("state: 'redis://h'", '3:8: state: a string; expected an object with "url", or null to disable it'),
        *(
            (
                f"access_logs: [{{sink: {{syslog: {{address: '{address}'}}}}}}]",
                f'3:41: access_logs[0].sink.syslog.address: "{address}" is not the address of a syslog server; '
                'expected "udp://host:514", "tcp://host:514" or "unix:/path"',
            )
            for address in ("h:514", "http://h:514")
        ),
        ("include: [1]", "3:11: include[0]: 1 without quotes; expected a string"),
    ],
)  # fmt: skip
def test_gateway_settings(tmp_path, text, line):
    (told,) = lines(tmp_path, HEAD + text + "\n")
    assert told.startswith(line)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{address: '[::1]'}", '1.address: "[::1]" is not an address; expected'),
        ("{address: 'a:1', protocols: []}", "protocols: an empty list; expected at least one"),
        ("{address: 'a:1', protocols: [http9]}", 'protocols[0]: "http9" is not a version of HTTP that'),
        ("{address: 'a:1', trusted_proxies: [10.0.0.1/8]}", "trusted_proxies[0]: 10.0.0.1/8 has host bits set; expect"),
        ("{address: 'a:1', proxy_protocol: false}", 'proxy_protocol: false; expected "off" or "required"'),
        ("{address: 'a:1', proxy_protocol: required}", "proxy_protocol: no peer is trusted to send the PROXY header;"),
        ("{address: 'a:1', proxy_protocol_senders: ['::1']}", "proxy_protocol_senders: has no effect without PROXY"),
        ("{address: 'a:1', scheme: wss}", 'scheme: "wss"; expected "http" or "https"'),
        ("{address: 'a:1', tsl: {}}", 'tsl: unknown key; did you mean "tls"?'),
        ("{address: 'a:1', tls: {}}", "tls.certificates: missing; expected a non-empty list (each element: an object)"),
    ],
)  # fmt: skip
def test_listeners(tmp_path, text, line):
    (told,) = lines(tmp_path, f"version: 1\nlisteners:\n  l1: {text}\n")
    assert line in told


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{targets: []}", "u.targets: an empty list; expected at least one"),
        ("{targets: [{url: 'http://a'}], pool: {max_uses: 0}}", "uses: 0; expected a whole number from 1 to 1000000"),
        ("{targets: [{url: 'http://a'}], pool: {max_idle: -1}}", "idle: -1; expected a whole number from 0 to 1000000"),
        ("{}", "u.targets: missing; expected a non-empty list (each element: a URL or an object)"),
        (
            "{targets: [{url: 'http://a'}], load_balancing: {hash_on: ip}}",
            "u.load_balancing: `hash_on` needs `algorithm: consistent_hash`",
        ),
        (
            "{targets: [{url: 'http://a'}], load_balancing: {algorithm: ip_hash, slow_start: 30s}}",
            "u.load_balancing: `slow_start` is not supported with `ip_hash`: clients would change targets at each step",
        ),
        (
            "{targets: [{url: 'http://a'}], load_balancing: {algorithm: consistent_hash, hash_on: host}}",
            'hash_on: "host" is not a valid key; expected ip, header:NAME, cookie:NAME or consumer',
        ),
        (
            "{targets: [{url: 'http://a'}], load_balancing: {sticky: {cookie: lb, same_site: none}}}",
            "sticky: `same_site: none` without `secure: true`: browsers reject such a cookie",
        ),
        (
            "{targets: [{url: 'http://a'}], load_balancing: {sticky: {cookie: 'l b'}}}",
            'sticky.cookie: "l b" is not a token (RFC 9110 section 5.6.2); expected a name such as "lb"',
        ),
        (
            "{targets: [{url: 'http://a'}], health_checks: {active: {type: tcp, expected_body: ok}}}",
            "health_checks.active: `expected_body` has no effect with `type: tcp`",
        ),
        (
            "{targets: [{url: 'http://a'}], health_checks: {active: {expected_statuses: [399-200]}}}",
            "active.expected_statuses[0]: 399-200 is empty: its start is above its end; expected statuses such as",
        ),
        ("{targets: [{url: 'http://a'}], circuit_breaker: {open: 0s}}", "breaker.open: a duration of zero; expected"),
        ("{targets: [{url: 'http://a', weight: -1}]}", "u.targets[0].weight: -1; expected a whole number from 0 to 10"),
        ("{targets: [{url: 'http://a'}], retries: {budget: 10}}", 'u.retries.budget: 10 has no unit; expected a perce'),
        ("{targets: [{url: 'http://a'}], host_header: 'a b'}", 'u.host_header: "a b" is not a host; expected "auto"'),
        ("{targets: [{url: 'http://a'}], retries: {conditions: [5xx]}}", 'conditions[0]: "5xx" is not a reason'),
        ("{targets: [{url: 'http://a'}], retries: {per_try_timeout: 1s}}", 'u.retries: `per_try_timeout` is set, but'),
        ("{targets: [{url: 'http://a'}], retries: {backoff: {base: 1s}}}", "u.retries.backoff: `base` is longer than "),
        ("{targets: [{url: 'http://a'}], retries: {body_bytes: 17MiB}}", 'body_bytes: "17MiB"; expected a size from'),
        ("{targets: [{url: 'http://a'}], hedge: {after: p99}}", 'u.hedge.after: "p99"; expected "p95" or a duration '),
        ("{targets: [{url: 'http://a'}], tls: {verify: false}}", "u.tls: no target of this upstream uses https; expec"),
        ("{targets: [{url: 'https://a'}], tls: {key: a.yaml}}", "u.tls.key: there is no `certificate`; expected both"),
        ("{targets: [{url: 'https://a'}], tls: {ca: a.yaml}}", "u.tls.ca: it contains no valid certificate; expec"),
        ("{targets: [{url: 'https://a'}], tls: {certificate: a.yaml, key: a.yaml}}", "u.tls.certificate: it contains"),
        ("{targets: [{url: 'https://a'}], tls: {ca: .}}", 'u.tls.ca: "." cannot be read: Is a directory; expected a r'),
    ],
)  # fmt: skip
def test_upstreams(tmp_path, text, line):
    (told,) = lines(tmp_path, f"{HEAD}upstreams:\n  u: {text}\n")
    assert line in told


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("respond: {}, redirect: {to: /}", "5:4: routes[0]: respond and redirect are mutually exclusive; expected one"),
        (
            "methods: [GET]",
            "5:4: routes[0]: the route has no action; "
            "expected one of upstream, variants, respond, redirect, compose, lambda, websocket_api, files",
        ),
        (
            "upstream: null",
            "5:4: routes[0]: the route has no action; "
            "expected one of upstream, variants, respond, redirect, compose, lambda, websocket_api, files",
        ),
        ("upstream: v", '5:24: routes[0].upstream: unknown upstream "v"; expected one of "u"'),
        (
            "upstream: u, paths: ['~*^/j']",
            "5:35: routes[0].paths[0]: '~*^/j': a regular expression starts right after `~`; "
            "expected ~(?i)^/j, case-insensitive",
        ),
        (
            "upstream: u, paths: ['~* ^/j']",
            "5:35: routes[0].paths[0]: '~* ^/j': a regular expression starts right after `~`; "
            "expected ~(?i)^/j, case-insensitive",
        ),
        *(
            (
                f"upstream: u, paths: ['{path}']",
                f"5:35: routes[0].paths[0]: '{path}' has a modifier of nginx; expected a prefix: /j/*",
            )
            for path in ("^~ /j", "^~ /j/", "^~/j/")
        ),
        (
            "upstream: u, paths: ['= /j']",
            "5:35: routes[0].paths[0]: '= /j' has a modifier of nginx; expected the path alone, "
            "which is matched exactly: /j",
        ),
        (
            "upstream: u, hosts: ['*']",
            "5:35: routes[0].hosts[0]: '*' is not a host name; expected one such as *.example.org, or no `hosts` for "
            "any host",
        ),
        *(
            (
                f"upstream: u, methods: ['{method}']",
                f"5:37: routes[0].methods[0]: {method} does not mean any method; "
                "leave out `methods` for any method",
            )
            for method in ("*", "ANY", "ALL")
        ),
        ("upstream: [u]", "5:24: routes[0].upstream: a list; expected one destination: several targets belong"),
        ("upstream: 'u:80'", '5:24: routes[0].upstream: "u:80" is not an http, https or unix URL; expected the name'),
        ("upstream: u, listeners: [min]", '5:39: routes[0].listeners[0]: unknown listener "min"; did you mean "main"?'),
        ("upstream: u, use: [x]", '5:33: routes[0].use[0]: unknown filter set "x"; none is defined'),
        ("upstream: u, hosts: ['a:80']", "5:35: routes[0].hosts[0]: 'a:80' is not just a host; expected a name withou"),
        ("upstream: u, paths: [a]", "5:35: routes[0].paths[0]: 'a' does not start with a slash; expected a path such"),
        ("upstream: u, paths: []", "5:34: routes[0].paths: an empty list; expected at least one"),
        ("upstream: u, methods: [get]", '5:37: routes[0].methods[0]: "get" is not in upper case; expected a method'),
        ("upstream: u, methods: [TRACE]", "5:37: routes[0].methods[0]: TRACE is always rejected; expected another"),
        ("upstream: u, methods: [BREW, PRI]", "5:43: routes[0].methods[1]: PRI is always rejected: methods are case"),
        ("upstream: u, headers: {'a b': c}", '5:37: routes[0].headers["a b"]: "a b" is not a token (RFC 9110'),
        ("upstream: u, query: {debug: 1}", "5:42: routes[0].query.debug: 1 without quotes; expected a string"),
        ("upstream: u, grpc: {service: 'a b'}", '5:43: routes[0].grpc.service: "a b" is not the full name of a service'
         '; expected a full name such as "package.Service"'),
        ("upstream: u, grpc: {service: a.B, methods: [c/D]}", '5:58: routes[0].grpc.methods[0]: "c/D" is not the name '
         'of a method; expected a name such as "SayHello"'),
        ("upstream: u, upgrade: [H2C]", "5:37: routes[0].upgrade[0]: h2c would bypass the gateway"),
        ("upstream: u, paths: ['/a/*'], strip_prefix: /b", '5:58: routes[0].strip_prefix: no path of this route start'),
        ("upstream: u, paths: ['/a'], strip_prefix: /a/b", '5:56: routes[0].strip_prefix: no path of this route start'),
        ("upstream: u, paths: ['/api{v}/x'], strip_prefix: /api", "5:63: routes[0].strip_prefix: no path of this"),
        ("upstream: u, paths: ['/a/{b}:c/d'], strip_prefix: /a/b", "5:64: routes[0].strip_prefix: no path of this"),
        ("upstream: u, strip_prefix: '/{a}'", "5:41: routes[0].strip_prefix: '/{a}' is a pattern; expected"),
        ("upstream: u, strip_prefix: /a, rewrite: /b", "5:27: routes[0].strip_prefix: strip_prefix and rewrite are mu"),
        ("upstream: u, paths: ['/{a}', '/b'], rewrite: '/{a}'", '5:59: routes[0].rewrite: not every path of this rout'),
        ("upstream: u, rewrite: '/{a}', paths: [~/(?P<c>b)]", '5:36: routes[0].rewrite: not every path of this route'
         ' has the parameter "a"; expected paths that have it; in a regular expression it is a named group, (?P<name'),
        ("upstream: u, rewrite: '/{a}'", "5:36: routes[0].rewrite: not every path of this route has the parameter"),
        ("redirect: {to: '/{a}'}, paths: ['/{b}']", '5:29: routes[0].redirect.to: not every path of this route has th'),
        ("redirect: {to: /, status: 304}", "5:40: routes[0].redirect.status: 304; expected 301, 302, 303, 307 or 308"),
        ("upstream: u, path: {forward: raw}, rewrite: /b", "5:49: routes[0].rewrite: the client's path is forwarded u"),
        ("files: {}", "5:14: routes[0].files.root: missing; expected the name of a directory"),
        ("redirect: {}", "5:24: routes[0].redirect: expected either `to`, or some of"),
        ("respond: {}, deadline_header: X-A", "5:27: routes[0].deadline_header: has no effect without an upstream; mu"),
        ("upstream: u, deadline_header: HOST", '5:44: routes[0].deadline_header: "HOST" is a header that the gateway'),
        ("respond: {}, timeout: 1s", "5:27: routes[0].timeout: has no effect without an upstream; mutually exclusive"),
        ("respond: {headers: {X: \"a\\r\\nb\"}}", "5:37: routes[0].respond.headers.X: a control character in a header"),
    ],
)  # fmt: skip
def test_routes(tmp_path, text, line):
    (told,) = lines(tmp_path, f"{HEAD}{U}routes: [\n   {{name: a, {text}}}]\n")
    assert told.startswith(line)


@pytest.mark.parametrize(
    "text",
    [
        "paths: ['/a/*', '/b'], strip_prefix: /a/b/c",
        "paths: ['/{x}/b'], strip_prefix: /a",
        "paths: ['/api{v}/x'], strip_prefix: /api2",
        "paths: ['/api{v}/x', '/api/x'], strip_prefix: /api",
        "paths: ['/a{v}ü/{b}/x'], strip_prefix: /a%20%c3%bc/b",
        "paths: ['/{x:path}'], strip_prefix: /a/b",
        "paths: ['~^/[ab]'], strip_prefix: /a",
        "strip_prefix: /a",
        "paths: ['/{x}/{y}', '/b/{y}/{x}'], rewrite: '/{y}'",
    ],
)
def test_what_may_be_meant_is_let_through(tmp_path, text):
    file = tmp_path / "a.yaml"
    file.write_text(f"{HEAD}{U}routes: [{{name: a, upstream: u, {text}}}]\n")
    assert config.load(str(file), {}).config.routes[0].name == "a"


@pytest.mark.parametrize(
    ("text", "control"), [("a\\n", "000A"), ("\\e[2J", "001B"), ("\\x7f", "007F"), ("\\x9b", "009B")]
)
def test_the_name_of_a_route_has_no_control_character(tmp_path: Path, text: str, control: str) -> None:
    """Terminals would obey it, in `explain` and in logs."""
    assert lines(tmp_path, f'{HEAD}{U}routes: [{{name: "{text}", upstream: u}}]') == [
        f"4:17: routes[0].name: the control character U+{control} in a name; expected a name without control characters"
    ]


@pytest.mark.parametrize(
    "setting",
    [
        "access_logs: [{sink: {syslog: {address: '%s'}}}]",
        "access_logs: [{sink: {kafka: {brokers: ['%s'], topic: t}}}]",
        "telemetry: {metrics: {statsd: {address: '%s'}}}",
    ],
)
@pytest.mark.parametrize("url", ["https://me:planted@a.test", "udp://planted@a.test:1"])
def test_a_password_in_an_address_is_refused_and_not_shown(tmp_path: Path, setting: str, url: str) -> None:
    told = "\n".join(lines(tmp_path, HEAD + setting % url))
    assert "a URL that contains a user or password" in told
    assert "planted" not in told


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("workers: {}", 1024),
        ("limits: {{header_count: {}}}", 10_000),
        ("limits: {{connections: {}}}", 10_000_000),
        ("limits: {{connections_per_ip: {}}}", 10_000_000),
        ("upstreams: {{u: {{targets: [{{url: 'http://u', weight: {}}}]}}}}", 1000),
        ("upstreams: {{u: {{targets: [{{url: 'http://u'}}], pool: {{max_connections: {}}}}}}}", 1_000_000),
        ("upstreams: {{u: {{targets: [{{url: 'http://u'}}], pool: {{max_idle: {}}}}}}}", 1_000_000),
        ("upstreams: {{u: {{targets: [{{url: 'http://u'}}], pool: {{max_pending: {}}}}}}}", 1_000_000),
        ("upstreams: {{u: {{targets: [{{url: 'http://u'}}], pool: {{max_uses: {}}}}}}}", 1_000_000),
        ("upstreams: {{u: {{targets: [{{url: 'http://u'}}], retries: {{max: {}}}}}}}", 10),
    ],
)
def test_numbers_have_a_bound_that_is_told(tmp_path, text, most):
    """What nobody needs must not fail later, where a table of that size is made."""
    (told,) = lines(tmp_path, HEAD + text.format(most + 1) + "\n")
    assert f"{most + 1}; expected a whole number from " in told
    assert f" to {most}" in told
    file = tmp_path / "b.yaml"
    file.write_text(HEAD + text.format(most) + "\n")
    compile(config.load(str(file), {}).config, 1)


def test_a_duration_has_a_bound_that_is_told(tmp_path):
    """Longer ones overflow a timer."""
    (told,) = lines(tmp_path, HEAD + "timeouts: {keepalive: 8761h}\n")
    assert told.startswith("3:23: timeouts.keepalive: 8761h is longer than 8760h; expected a duration such as")


def test_a_thousand_problems_are_told_and_how_many_more_there_are(tmp_path):
    told = lines(tmp_path, HEAD + "".join(f"zzz{each}: 1\n" for each in range(1500)))
    assert len(told) == 1001
    assert told[999].startswith("1002:1: zzz999: unknown key")
    assert told[1000] == " and 500 more"


def test_a_thousand_notes_are_told_and_how_many_more_there_are(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(HEAD + "include: [" + "'none-*', " * 1500 + "]\n")
    notes = config.load(str(file), {}).notes
    assert len(notes) == 1001
    assert str(notes[-1]) == f"{file}: and 500 more"


def test_two_listeners_on_one_address_and_two_routes_of_one_name(tmp_path):
    text = """
version: 1
listeners:
  a: {address: "127.0.0.1:80"}
  b: {address: "127.0.0.1:80"}
  c: {address: "127.0.0.1:0"}
  d: {address: "127.0.0.1:0"}
  e: {address: "unix:/run/e"}
  f: {address: "unix:/run/e"}
routes:
  - {name: r, respond: {}}
  - {name: r, respond: {}}
"""
    assert lines(tmp_path, text) == [
        "5:16: listeners.b.address: 127.0.0.1:80 is already used by a.yaml:4; expected a unique address",
        "9:16: listeners.f.address: unix:/run/e is already used by a.yaml:8; expected a unique address",
        '12:12: routes[1].name: "r" is the name of the route at a.yaml:11 too; expected a unique name',
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("listeners: {l: {address: 'a:1', tls: }}", "2:33: listeners.l.tls: no value; expected a"),
        ("admin:", "2:1: admin: no value; expected an object, or `admin: null` for none"),
        ("limits:\n  body_bytes: # none", "or `body_bytes: null` for none"),
        ("routes: [{name: a, upstream: }]", "or `upstream: null` for none"),
        ("admin: {token: }", "{credential: NAME} or {vault: path#key}, or `token: null` for none"),
        ("listeners: {l: {address: 'a:1', tls: {client_auth: &none }}}", "listeners.l.tls.client_auth: no value"),
    ],
)  # fmt: skip
def test_nothing_behind_a_colon_is_no_null(tmp_path, text, line):
    """It would switch off what shall protect: a listener without its `tls` speaks plain HTTP."""
    told = lines(tmp_path, f"version: 1\n{text}\n")
    assert [each for each in told if line in each]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("upstreams:\nu: {}", ["2:1: upstreams: no value; expected an object, indented below", "3:1: u: unknown key"]),
        ("timeouts:\n", ["2:1: timeouts: no value; expected an object, indented below this key"]),
        ("routes:\n", ["2:1: routes: no value; expected a list below this key"]),
        ("listeners:\n", ["2:1: listeners: no value; expected at least one, such as {main: "]),
    ],
)  # fmt: skip
def test_a_key_without_the_lines_that_belong_to_it_is_the_first_to_be_named(tmp_path, text, told):
    """Lines indented too little are keys of their own, each unknown: the cause stands before them."""
    first = [line for line in lines(tmp_path, f"version: 1\n{text}") if not line.startswith("1:1: ")]
    assert [line[: len(begin)] for line, begin in zip(first, told, strict=False)] == told


def test_a_null_that_is_written_means_none(tmp_path):
    text = "listeners: {l: {address: 'a:1', tls: null}}\nadmin: null\nstatus: ~\nlimits: {body_bytes: null}\n"
    assert lines(tmp_path, f"version: 1\nroutes: 1\n{text}") == [
        ("2:9: routes: 1; expected a list (each element: an object)")
    ]


def test_a_broken_part_still_has_its_name(tmp_path):
    """One mistake is one line: what refers to a broken part is not wrong too."""
    text = HEAD.replace("main", "bad: {address: x}, main") + "upstreams: {u: {targets: 1}}\nroutes: "
    assert lines(tmp_path, text + "[{name: a, listeners: [bad], upstream: u, timeout: 1}, {name: b, upstream: v}]") == [
        '2:28: listeners.bad.address: "x" is not an address; '
        'expected "host:port", "[ipv6]:port", ":port" or "unix:/path"',
        "3:26: upstreams.u.targets: 1; expected a non-empty list (each element: a URL or an object) "
        "or {file: …} or {dns: …} or {srv: …} or {consul: …} or {nacos: …} or {eureka: …} or {docker: …}",
        '4:60: routes[0].timeout: 1 has no unit; expected a duration such as "1s"',
        '4:84: routes[1].upstream: unknown upstream "v"; expected one of "u"',
    ]


def test_a_problem_is_one_line_and_can_be_json(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(HEAD + 'workers: "a\\nb\\e' + "x" * 500 + '"\n')
    with pytest.raises(config.ConfigError) as caught:
        config.load(str(file), {})
    (problem,) = caught.value.problems
    assert "\n" not in str(problem)
    assert "\\nb\\x1b" in str(problem)
    assert len(str(problem)) < 600
    assert msgspec.json.decode(msgspec.json.encode(problem), type=config.Problem) == problem


def test_paths_are_written_so_that_they_can_be_found():
    assert path_text(("routes", 0, "filters", "rate_limit")) == "routes[0].filters.rate_limit"
    assert path_text(("headers", "a.b")) == 'headers["a.b"]'


def test_a_path_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    """It could neither pass to the workers nor be told of by the admin API."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    (folder / "gw.yaml").write_text(
        "version: 1\nlisteners: {a: {address: '127.0.0.1:0'}}\nadmin: {token: {file: token}}\n"
    )
    (folder / "token").write_text("t" * 40)
    with pytest.raises(config.ConfigError) as caught:
        config.load(str(folder / "gw.yaml"), TYPES)
    shown = f"{tmp_path}/\\udcff"
    wrong = "the path is not UTF-8; expected folders and files with names in UTF-8"
    assert sorted(map(str, caught.value.problems)) == [f"{shown}/gw.yaml: {wrong}", f"{shown}/token: {wrong}"]
    with pytest.raises(config.ConfigError) as caught:
        config.load(str(folder / "missing.yaml"), TYPES)
    assert [*map(str, caught.value.problems)] == [f"{shown}/missing.yaml: {wrong}"]


def test_an_error_tells_the_correct_form_once(tmp_path: Path) -> None:
    text = f"{HEAD}{U}routes: [{{name: a, upstream: u, headers: {{X: {{regex: '(a'}}}}}}]"
    (line,) = lines(tmp_path, text)
    assert line.endswith("regex: '(a': missing ): (a; expected a regular expression in RE2 syntax")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (
            "filters: {authorize: {claims: {n: {any: [18446744073709551616]}}}}",
            "18446744073709551616; expected a string or true or false or a whole number or a number",
        ),
        (
            "limits: {header_bytes: 99999999999999999999GiB}",
            "99999999999999999999GiB is 8 EiB or more; expected a size",
        ),
        ("limits: {body_bytes: 8589934592GiB}", "8589934592GiB is 8 EiB or more; expected a size"),
        (
            "filters: {concurrency: {adaptive: {min: 99999999999999999999}}}",
            "99999999999999999999 has more than 64 bits; expected a whole number from 1 of at most 64 bits",
        ),
    ],
)
def test_a_number_of_more_than_64_bits_is_refused(text: str, wrong: str) -> None:
    """No token has one that is read exactly, and no process could pass it on."""
    with pytest.raises(config.ConfigError) as caught:
        config.load_text(
            f"version: 1\nlisteners: {{a: {{address: '127.0.0.1:0'}}}}\n{text}\n".encode(), "/a.yaml", TYPES
        )
    (problem,) = caught.value.problems
    assert wrong in str(problem)
