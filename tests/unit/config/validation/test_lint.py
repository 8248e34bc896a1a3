"""What a valid configuration says and hardly means is told by `check`, and addresses that cannot both be bound."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from fastgw import config
from fastgw.config.base.value_types import parse_address
from fastgw.filters import TYPES
from fastgw.runtime.sockets.listening_sockets import AddressInUse, CannotListen, open_endpoints, why_not_listen
from tests.support.certificates import Certificates
from tests.support.commands import ended

HEAD = """\
version: 1
listeners: {main: {address: '127.0.0.1:0'}}
upstreams: {u: {targets: ['http://127.0.0.1:9']}}
"""
UNUSED = "a.yaml:3:13: upstreams.u: it is unused: no route, fallback, filter or listener names it"
"""The note on the upstream of HEAD, where a test needs no route to it."""


def notes(folder, text):
    file = folder / "a.yaml"
    file.write_text(text)
    told = [str(each).replace(f"{folder}/", "") for each in config.load(str(file), TYPES).notes]
    return [each for each in told if each != UNUSED]


def problems(folder, text):
    (folder / "a.yaml").write_text(text)
    with pytest.raises(config.ConfigError) as caught:
        config.load(str(folder / "a.yaml"), TYPES)
    return [str(each).replace(f"{folder}/", "") for each in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (
            "error_pages: {'502': {html: ''}}\nroutes: [{name: a, upstream: u}]",
            "a.yaml:4:29: error_pages.502.html: browsers get an empty page",
        ),
        (
            ("routes: [{name: a, paths: [/], upstream: u}]"),
            "4:28: routes[0].paths[0]: `/` matches that path only; `/*` matches all paths",
        ),
        (
            ("routes: [{name: a, paths: ['/v/(a|b)'], upstream: u}]"),
            "paths[0]: it is matched literally: a regular expression starts with `~`, such as ~^/v[0-9]+/",
        ),
        (
            "routes: [{name: a, paths: ['~ ^/v1/'], upstream: u}]",
            "paths[0]: it cannot match anything: a regular expression starts right after `~`, such as ~^/v[0-9]+/",
        ),
        (
            ("routes: [{name: a, paths: ['/u/:id/x'], upstream: u}]"),
            "paths[0]: `:id` is matched literally: a parameter is written ",
        ),
        (
            ("routes: [{name: a, paths: ['/u/<int:id>'], upstream: u}]"),
            "paths[0]: `<int:id>` is matched literally: a parameter is written ",
        ),
        (
            ("routes: [{name: a, paths: ['~^/x{id}$'], upstream: u}]"),
            "paths[0]: `{…}` in a regular expression is not a parameter",
        ),
        (
            "routes: [{name: a, upstream: u}]\nfilter_sets: {guarded: {size: {body: 1KiB}}}",
            "a.yaml:5:15: filter_sets.guarded: it is unused: no route has it in `use`",
        ),
        (
            "routes: [{name: a, paths: ['/x/*'], rewrite: '/new/*', upstream: u}]",
            "a.yaml:4:46: routes[0].rewrite: its `*` is sent literally: use a path parameter",
        ),
        (
            "routes: [{name: a, variants: [{rewrite: '/new/*', upstream: u}, {upstream: u}]}]",
            "routes[0].variants[0].rewrite: its `*` is sent literally",
        ),
        (
            "routes: [{name: a, upstream: u, filters: {headers: {request: {set: {X-M: '{map.m}'}}}}}]\n"
            "maps: {m: {source: path, values: {/a: b}}}",
            'maps.m.source: "path" is a constant, so the result is always the same; a variable is written {path}',
        ),
        ("routes: [{name: a, headers: {x-v: '~^2'}, upstream: u}]", "headers.x-v: it is compared literally"),
        ("routes: [{name: a, query: {v: '{id}'}, upstream: u}]", "query.v: it is compared literally"),
        ("routes: [{name: a, rewrite: /b/$1, upstream: u}]", "routes[0].rewrite: `$1` is taken literally: use a named"),
        ("routes: [{name: a, redirect: {to: '/b/$1'}}]", "redirect.to: `$1` is taken literally: use a named"),
        (
            ("routes: [{name: a, redirect: {to: 'https://b$request_uri'}}]"),
            "to: `$request_uri` is taken literally: a variable is written {NAME}, here {path} and {query}",
        ),
        ("routes: []\nadmin: {token: '${TOKEN}'}", "5:16: admin.token: `${…}` is taken literally; write {env: NAME}"),
        (
            ("routes: []\nfilters: {headers: {request: {set: {X-A: '$remote_addr'}}}}"),
            "`$remote_addr` is taken literally: a variable is written {NAME}, here {client_ip}",
        ),
        (
            ("routes: []\nfilters: {headers: {request: {set: {X-A: '$http_x_tenant'}}}}"),
            "`$http_x_tenant` is taken literally: a variable is written {NAME}, here {header.x-tenant}",
        ),
        (
            ("routes: []\nfilters: {headers: {request: {set: {X-A: '$arg_page_size'}}}}"),
            "`$arg_page_size` is taken literally: a variable is written {NAME}, here {query.page_size}",
        ),
        (
            ("routes: []\nfilters: {headers: {request: {set: {X-A: '$server_port'}}}}"),
            "`$server_port` is taken literally: a variable is written {NAME}, such as {client_ip}",
        ),
        (
            "routes: [{name: a, hosts: [_], upstream: u}]",
            "4:28: routes[0].hosts[0]: `_` is matched literally: leave out `hosts` for any host",
        ),
        (
            "routes: []\ntelemetry: {route_slos: {gone: {availability: 99%}}}",
            '5:25: telemetry.route_slos: there is no route with the name "gone"',
        ),
        (
            "routes: []\ntelemetry: {metrics: {request_duration: {labels: [route], route_buckets: {gone: [1ms]}}}}",
            'telemetry.metrics.request_duration.route_buckets: there is no route with the name "gone"',
        ),
        ("routes: []\naccess_logs: [{sink: stderr}]", 'access_logs[0].sink: this writes to a file named "stderr"'),
        (
            "routes: []\nconsumers: [{name: a, key_auth: [{key: a-key-of-alice}]}, "
            "{name: b, key_auth: [{key: a-key-of-bob}]}]",
            "5:23: consumers[0].key_auth: no filter uses it: there is no `key_auth` (and 1 more)",
        ),
        (
            "routes: [{name: a, paths: ['/e/{id}'], upstream: u}, "
            "{name: b, paths: ['/e/{x}'], methods: [GET], upstream: u}]",
            '4:61: routes[1].name: it is unreachable: route "a" (a.yaml:4) matches all of its requests first',
        ),
        (
            "routes: [{name: a, methods: [GET], upstream: u}, {name: b, methods: [HEAD, GET], upstream: u}]",
            'routes[1].name: it is unreachable: route "a"',
        ),
        *(
            (
                f"routes: [{{name: a, paths: ['~{regex}'], {more} upstream: u}}, {{name: all, {prefix} upstream: u}}]",
                'routes[0].name: it is unreachable: route "all" (a.yaml:4) matches all of its requests first; a route',
            )
            for regex, more, prefix in (
                ("^/v[0-9]+/", "", "paths: ['/*'],"),
                ("^/api/(v1|v(2|3))/[^|]", "", "paths: ['/api/*'],"),
                ("x|^/y", "methods: [GET],", "paths: ['/{rest:path}'],"),
                ("^/a/b\\.c/?d", "headers: {x: '1', y: '2'},", "paths: ['/a/*'], headers: {x: '1'},"),
                ("^/a/b$", "clients: [10.0.0.0/8],", "paths: ['/c', '/a/*'], priority: 1,"),
            )
        ),
    ],
)
def test_it_is_told_at_its_place(tmp_path, text, note):
    told = notes(tmp_path, f"{HEAD}{text}\n")
    assert len(told) == 1, told
    assert note in told[0]
    assert "a-key-of" not in told[0]


@pytest.mark.parametrize(
    "text",
    [
        "routes: [{name: a, paths: [/], upstream: u}, {name: all, upstream: u}]",
        "routes: [{name: a, paths: [/, '/*'], upstream: u}]",
        "routes: [{name: a, paths: [/], redirect: {to: /app/}}]",
        "routes: [{name: a, paths: ['~^/v[0-9]{1,3}/', '/a.b/c'], upstream: u}]",
        "routes: [{name: a, respond: {body: 'let a = `${name}`; $(\"#host\")'}}]",
        "routes: [{name: a, methods: [GET], upstream: u}, {name: b, methods: [POST], upstream: u}]",
        "routes: [{name: a, headers: {x: '1'}, upstream: u}, {name: b, upstream: u}]",
        "routes: [{name: a, paths: ['~^/v[0-9]+/'], upstream: u}, {name: all, upstream: u}]",
        *(
            f"routes: [{{name: a, paths: ['~{regex}'], {more} upstream: u}}, {{name: b, {prefix} upstream: u}}]"
            for regex, more, prefix in (
                ("^/v[0-9]+/", "", "paths: ['/v/*'],"),
                ("^/api/?x", "", "paths: ['/api/*'],"),
                ("^/api/x|/y", "", "paths: ['/api/*'],"),
                ("^/api/(x|y)|/z", "", "paths: ['/api/*'],"),
                ("/api/x", "", "paths: ['/api/*'],"),
                ("^/apis", "", "paths: ['/api/*'],"),
                ("^/api/x", "priority: 1,", "paths: ['/*'],"),
                ("^/api/x", "", "paths: ['/*'], methods: [GET],"),
                ("^/api/x", "", "paths: ['/*'], headers: {x: '1'},"),
                ("^/api/x", "", "paths: ['/*'], hosts: [a.test],"),
                ("^/api/x", "", "paths: ['/{a}/{rest:path}'],"),
            )
        ),
        "routes: [{name: a, upstream: u}, {name: b, headers: {x: '1'}, upstream: u}]",
        "routes: [{name: a, hosts: [a.test], upstream: u}, {name: b, hosts: [b.test], upstream: u}]",
        "routes: []\naccess_logs: [{sink: /dev/stderr}]",
        "filters: {auth: {any_of: [{key_auth: {}}]}}\nroutes: []\n"
        "consumers: [{name: a, key_auth: [{key: a-key-of-a}]}]",
        "filters: {basic_auth: {}}\nroutes: []\n"
        "consumers: [{name: a, basic_auth: [{username: a, password: 'pa$$w0rd${x}'}]}]",
    ],
)
def test_what_may_well_be_meant_is_not_told(tmp_path, text):
    assert notes(tmp_path, f"{HEAD}{text}\n") == []


def test_senders_of_proxy_headers_that_may_be_tcp_balancers_are_told(tmp_path):
    """Forwarding headers behind their PROXY header are those of their clients."""
    trusted, tcp = "trusted_proxies: [10.0.0.0/8]", ", upstream: u, protocol: tcp"
    for settings, is_told in (
        (trusted, True),
        (f"{trusted}, proxy_protocol_senders: []", False),
        (f"{trusted}, proxy_protocol_senders: [10.0.0.1]", False),
        ("proxy_protocol_senders: [10.0.0.1]", False),
        (trusted + tcp, False),
    ):
        listener = f"{{main: {{address: '127.0.0.1:0', proxy_protocol: required, {settings}}}}}"
        text = HEAD.replace("{main: {address: '127.0.0.1:0'}}", listener) + "routes: []\n"
        told = notes(tmp_path, text.replace("http://", "tcp://") if tcp in settings else text)
        assert [each.partition(" forwarding headers of")[0] for each in told] == (
            ["a.yaml:2:44: listeners.main.proxy_protocol:"] if is_told else []
        )


@pytest.mark.parametrize(
    ("text", "unused"),
    [
        ("routes: [{name: a, respond: {}}]", ["u", "v"]),
        ("routes: [{name: a, upstream: u}]", ["v"]),
        ("routes: [{name: a, upstream: {u: 1, v: 0}}]", []),
        ("routes: [{name: a, upstream: 'http://127.0.0.1:9', fallback: {upstream: v}}]", ["u"]),
        ("routes: [{name: a, upstream: u, filters: {mirror: {upstream: v}}}]", []),
        ("routes: [{name: a, upstream: u}]\nfilters: {mirror: {upstream: v}}", []),
        ("routes: [{name: a, upstream: u, use: [s]}]\nfilter_sets: {s: {copy: {type: mirror, upstream: v}}}", []),
        ("routes: [{name: a, upstream: u}]\nextensions: [fastgw]", []),  # its filters may ask any upstream
    ],
)
def test_an_upstream_that_nothing_uses_is_told(tmp_path, text, unused):
    head = HEAD.replace("upstreams: {", "upstreams: {v: {targets: ['http://127.0.0.1:8']}, ")
    (tmp_path / "a.yaml").write_text(f"{head}{text}\n")
    told = [each for each in config.load(str(tmp_path / "a.yaml"), TYPES).notes if "unused" in each.wrong]
    assert sorted(each.path for each in told) == [f"upstreams.{name}" for name in unused]
    assert all(str(each).endswith("it is unused: no route, fallback, filter or listener names it") for each in told)


def test_upstreams_of_egress_are_used_by_its_routes(tmp_path):
    text = "routes: [{name: a, paths: [/a], upstream: u}]\negress: {apps: {shop: {orders: {url: 'https://a.test'}}}}\n"
    assert notes(tmp_path, HEAD + text) == []


@pytest.mark.parametrize(
    ("sink", "form"),
    [
        ("http://logs:9000", '{http: {url: "https://logs.internal/in"}}'),
        ("tcp://logs:514", '{syslog: {address: "udp://logs.internal:514"}}'),
        ("syslog://localhost", '{syslog: {address: "udp://logs.internal:514"}}'),
        ("kafka://logs:9092", '{kafka: {brokers: ["kafka-1:9092"], topic: access}}'),
    ],
)
def test_a_sink_that_is_a_url_is_told_the_form_of_its_kind(tmp_path, sink, form):
    (told,) = problems(tmp_path, f"{HEAD}routes: []\naccess_logs: [{{sink: '{sink}'}}]\n")
    assert "access_logs[0].sink: a URL" in told
    assert told.endswith(f"expected the kind of server, such as {form}")


@pytest.mark.parametrize(
    ("sinks", "problem"),
    [
        (
            "[{sink: {http: {url: 'http://a/', spool: {path: s, size: 1GiB}}}}, "
            "{sink: {loki: {url: 'http://b/p', spool: {path: s, size: 1GiB}}}}]",
            "access_logs[1].sink.loki.spool: the spool of access log 1 as well; expected a directory of its own",
        ),
        (
            "[{sink: {file: {path: a.log, size: 1GiB}}}, {sink: a.log}]",
            "access_logs[1].sink: the file of access log 1 as well, and one of the two rotates it; "
            "expected a file of its own",
        ),
        (
            "[{sink: {file: {path: a.log, size: 1GiB}}}, {sink: link.log}]",
            "access_logs[1].sink: the file of access log 1 as well, and one of the two rotates it; "
            "expected a file of its own",
        ),
        (
            "[{sink: {file: {path: folder/a.log, size: 1GiB}}}, {sink: {file: {path: ./a.log, size: 1GiB}}}]",
            "access_logs[1].sink: the file of access log 1 as well, and one of the two rotates it; "
            "expected a file of its own",
        ),
        (
            "[{sink: {http: {url: 'http://a/', spool: {path: s, size: 1GiB}}}}, "
            "{sink: {http: {url: 'http://b/', spool: {path: folder/s, size: 1GiB}}}}]",
            "access_logs[1].sink.http.spool: the spool of access log 1 as well; expected a directory of its own",
        ),
        (
            "[{sink: a.log, format: w3c, fields: [status]}, {sink: link.log, format: w3c, fields: [path]}]",
            "access_logs[1].sink: the file of access log 1 as well, and its `#Fields` would not be those of all lines; "
            "expected a file of its own",
        ),
        (
            "[{sink: a.log}, {sink: a.log, format: w3c}]",
            "access_logs[1].sink: the file of access log 1 as well, and its `#Fields` would not be those of all lines; "
            "expected a file of its own",
        ),
        (
            "[{sink: stdout}, {sink: stdout, format: w3c}]",
            "access_logs[1].sink: the file of access log 1 as well, and its `#Fields` would not be those of all lines; "
            "expected a file of its own",
        ),
        (
            "[{sink: stdout, format: w3c}, {sink: /dev/stdout}]",
            "access_logs[1].sink: the file of access log 1 as well, and its `#Fields` would not be those of all lines; "
            "expected a file of its own",
        ),
        (
            "[{sink: {elasticsearch: {url: 'http://a/_bulk', index: web}}, format: combined}]",
            "access_logs[0]: `format: combined` is not JSON, as `elasticsearch` needs; expected `json`",
        ),
        (
            "[{sink: {otlp: {url: 'http://a:4318/v1/logs'}}}]",
            "sink.otlp: `url` ends with `/v1/logs`, which is appended to it; expected the URL before it",
        ),
        (
            "[{sink: {kafka: {brokers: [kafka], topic: t}}}]",
            """brokers[0]: 'kafka' is not a host and a port; expected a broker such as "kafka-1:9092\"""",
        ),
    ],
)
def test_plausible_mistakes_in_sinks_are_told_with_what_to_do(tmp_path, sinks, problem):
    (tmp_path / "link.log").symlink_to("a.log")
    (tmp_path / "folder").symlink_to(".")
    (told,) = problems(tmp_path, f"{HEAD}routes: []\naccess_logs: {sinks}\n")
    assert told.startswith("a.yaml:5:")
    assert told.endswith(problem)


def test_logs_may_share_a_file_that_none_rotates(tmp_path):
    assert notes(tmp_path, f"{HEAD}routes: []\naccess_logs: [{{sink: a.log}}, {{sink: a.log}}, {{}}, {{}}]\n") == []


def test_any_logs_may_be_discarded(tmp_path):
    logs = "[{sink: /dev/null, format: w3c}, {sink: /dev/null}]"
    assert notes(tmp_path, f"{HEAD}routes: []\naccess_logs: {logs}\n") == []


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("access_logs: [{sink: {loki: {url: 'http://a:3100'}}}]", "lines at /loki/api/v1/push"),
        ("access_logs: [{sink: {elasticsearch: {url: 'http://a:9200', index: w}}}]", "lines at /_bulk"),
        ("telemetry: {traces: {zipkin: {url: 'http://a:9411'}}}", "Zipkin accepts spans at /api/v2/spans"),
    ],
)
def test_a_server_without_the_path_of_its_intake_is_told(tmp_path, text, note):
    (told,) = notes(tmp_path, f"{HEAD}routes: []\n{text}\n")
    assert told.endswith(note)
    assert "url: this has no path; " in told


@pytest.mark.parametrize(
    "text",
    [
        "access_logs: [{sink: {otlp: {url: 'http://a:PORT', protocol: PROTOCOL}}}]",
        "telemetry: {traces: {otlp: {url: 'http://a:PORT', protocol: PROTOCOL}}}",
        "telemetry: {metrics: {otlp: {url: 'http://a:PORT', protocol: PROTOCOL}}}",
    ],
)
def test_a_port_of_the_other_protocol_is_told(tmp_path, text):
    def told(port, protocol):
        return notes(tmp_path, f"{HEAD}routes: []\n{text}\n".replace("PORT", port).replace("PROTOCOL", protocol))

    (of_grpc,) = told("4317", "http")
    assert of_grpc.endswith(
        "otlp.url: port 4317 is that of OTLP/gRPC, and this sends OTLP/HTTP; expected `protocol: grpc`, or port 4318"
    )
    (of_http,) = told("4318", "grpc")
    assert of_http.endswith(
        "otlp.url: port 4318 is that of OTLP/HTTP, and this sends OTLP/gRPC; expected `protocol: http`, or port 4317"
    )
    assert told("4318", "http") == told("4317", "grpc") == told("443", "grpc") == []


@pytest.mark.parametrize(
    ("telemetry", "problem"),
    [
        (
            "{traces: {otlp: {url: 'http://a:4318/v1/traces'}}}",
            "otlp: `url` ends with `/v1/traces`, which is appended to it; expected the URL before it",
        ),
        (
            "{metrics: {statsd: {address: 'udp://a:8125'}}}",
            """is not an address of a StatsD server; expected "host:port" such as "127.0.0.1:8125", or "unix:/path\"""",
        ),
    ],
)
def test_plausible_mistakes_in_telemetry_are_told_with_what_to_do(tmp_path, telemetry, problem):
    (told,) = problems(tmp_path, f"{HEAD}routes: []\ntelemetry: {telemetry}\n")
    assert told.endswith(problem)


def test_where_text_is_not_expanded_and_wrong_it_is_said_what_to_write(tmp_path):
    (told,) = problems(tmp_path, f"{HEAD}routes: []\ntimeouts: {{keepalive: '${{IDLE}}'}}\n")
    assert told.endswith("; `${…}` is not expanded: write {env: NAME} in place of the whole value")


def test_a_regular_expression_that_cannot_be_text_is_told_its_sign(tmp_path):
    (told,) = problems(tmp_path, f"{HEAD}routes: [{{name: a, paths: ['/v[0-9]+/.*'], upstream: u}}]\n")
    assert told.endswith("such as /files/*, or `~` before a regular expression")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0.0.0.0:80", "127.0.0.1:80"),
        ("127.0.0.1:80", "0.0.0.0:80"),
        ("[::]:80", "[::1]:80"),
        (":80", "0.0.0.0:80"),
        (":80", "[2001:db8::1]:80"),
        ("localhost:80", "127.0.0.1:80"),
        ("0.0.0.0:80", "localhost:80"),
        ("unix:/run/a.sock", "unix:/run/../run/a.sock"),
    ],
)
def test_addresses_that_cannot_both_be_bound_are_refused(tmp_path, one, other):
    """As the start would find it; those of control too."""
    for text in (
        f"{{a: {{address: '{one}'}}, b: {{address: '{other}'}}}}\n",
        f"{{a: {{address: '{one}'}}}}\nstatus: {{address: '{other}'}}\n",
    ):
        (told,) = problems(tmp_path, f"version: 1\nlisteners: {text}routes: []\n")
        assert f"{other} overlaps {one}, which is used by a.yaml:2; expected a unique address" in told


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0.0.0.0:80", "[::]:80"),
        ("127.0.0.1:80", "127.0.0.2:80"),
        ("0.0.0.0:80", "127.0.0.1:81"),
        ("a.test:80", "b.test:80"),
        ("0.0.0.0:0", "127.0.0.1:0"),
    ],
)
def test_others_can(tmp_path, one, other):
    text = f"version: 1\nlisteners: {{a: {{address: '{one}'}}, b: {{address: '{other}'}}}}\nroutes: []\n"
    assert notes(tmp_path, text) == []


class TestWhatRunWouldFind:
    """Not wrong with the file, but with this machine or this user."""

    def test_a_low_port_without_the_right(self, tmp_path, monkeypatch):
        monkeypatch.setattr("fastgw.runtime.sockets.listening_sockets._may_bind_low_ports", lambda: False)
        monkeypatch.setattr("fastgw.runtime.sockets.listening_sockets._unprivileged_ports", lambda: 1024)
        (tmp_path / "a.yaml").write_text(
            f"{HEAD.replace('127.0.0.1:0', '127.0.0.1:80')}status: {{address: ':443'}}\nroutes: []\n"
        )
        told = json.loads(ended("check", "a.yaml", "--format", "json", directory=tmp_path).stdout)
        assert told["problems"] == []
        ports = {each["path"]: each["wrong"] for each in told["notes"]}
        assert [*ports] == ["upstreams.u", "listeners.main.address", "status.address"]
        assert ports["status.address"].startswith(
            "port 443 needs a capability that this user lacks: CAP_NET_BIND_SERVICE"
        )

        def refuse(*_):
            raise PermissionError(errno.EACCES, "Permission denied")

        with monkeypatch.context() as patched:
            patched.setattr("fastgw.runtime.sockets.listening_sockets._open_tcp", refuse)
            with pytest.raises(CannotListen) as caught:
                open_endpoints(parse_address("127.0.0.1:81"), 1)
        assert str(caught.value) == (
            "cannot listen on 127.0.0.1:81: Permission denied: port 81 needs a capability that this user lacks: "
            "CAP_NET_BIND_SERVICE (in a unit of systemd: AmbientCapabilities), or "
            "net.ipv4.ip_unprivileged_port_start of at most 81; or take a port from 1024 on"
        )
        monkeypatch.setattr("fastgw.runtime.sockets.listening_sockets._unprivileged_ports", lambda: 80)
        assert why_not_listen(parse_address("127.0.0.1:80")) == ""

    @pytest.mark.parametrize(
        ("address", "why"),
        [
            ("192.0.2.7:8080", "cannot listen on 192.0.2.7:8080: Cannot assign requested address"),
            ("nobody.invalid:8080", "nobody.invalid cannot be resolved: "),
            ("unix:/nowhere/a.sock", "directory /nowhere for the socket does not exist"),
            (":8080", ""),
            ("127.0.0.1:0", ""),
            ("unix:/tmp/a.sock", ""),
        ],
    )
    def test_an_address_that_this_machine_cannot_have(self, address, why):
        told = why_not_listen(parse_address(address))
        assert told.startswith(why)
        assert bool(told) is bool(why)

    def test_a_file_that_is_no_socket_has_the_path(self, tmp_path):
        (tmp_path / "gw.sock").touch()
        address = parse_address(f"unix:{tmp_path}/gw.sock")
        assert why_not_listen(address) == f"the file {tmp_path}/gw.sock exists and is no socket"
        with pytest.raises(CannotListen) as caught:
            open_endpoints(address, 1)
        assert str(caught.value) == f"cannot listen on unix:{tmp_path}/gw.sock: the file exists and is no socket"
        assert not isinstance(caught.value, AddressInUse)
        assert (tmp_path / "gw.sock").is_file()

    def test_a_path_that_cannot_be_looked_at(self, tmp_path, monkeypatch):
        """Another user's directory, or a circle of symbolic links: the system gives the reason."""
        (tmp_path / "gw.sock").symlink_to(tmp_path / "gw.sock")
        address = parse_address(f"unix:{tmp_path}/gw.sock")
        assert why_not_listen(address) == ""
        with pytest.raises(CannotListen):
            open_endpoints(address, 1)
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        assert why_not_listen(address) == f"this user cannot create a socket in {tmp_path}"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("POST", "http://api.test/users/7/"), "api: path /users/7/ is not /users/{id}: the trailing slash matters"),
        (("POST", "http://api.test/Users/7"), "api: path /Users/7 is not /users/{id}: paths are case-sensitive"),
        (("POST", "http://other.test/users/7"), "api: host other.test is not api.test"),
        (
            ("POST", "http://api.test/users/7/posts"),
            "api: path /users/7/posts is not /users/{id}, which matches that path only",
        ),
        (("GET", "http://api.test/beta"), "beta: header x-beta is not '1'"),
        (("GET", "http://api.test/internal/x"), "inside: is served on listener inner, not on main"),
        (("GET", "http://api.test/what/is/this/after/all"), ""),
    ],
)
def test_explain_names_the_nearest_route_of_a_404_and_what_differs(tmp_path, asked, told):
    (tmp_path / "a.yaml").write_text(
        """
version: 1
listeners: {main: {address: '127.0.0.1:8080'}, inner: {address: '127.0.0.1:8081'}}
routes:
  - {name: api, hosts: [api.test], paths: ['/users/{id}'], methods: [POST], respond: {}}
  - {name: beta, paths: [/beta], headers: {x-beta: '1'}, respond: {}}
  - {name: inside, listeners: [inner], paths: ['/internal/*'], respond: {}}
"""
    )
    shown = json.loads(
        ended(
            "explain",
            "a.yaml",
            *asked,
            "-H",
            "X-Beta: a-secret",
            "--listener",
            "main",
            "--format",
            "json",
            directory=tmp_path,
        ).stdout
    )
    assert (shown["status"], shown.get("nearest", "")) == (404, told)
    text = ended("explain", "a.yaml", *asked, "--listener", "main", directory=tmp_path).stdout
    assert [line for line in text.splitlines() if line.startswith("nearest")] == ([f"nearest   {told}"] if told else [])


def test_a_root_with_the_configuration_or_a_key_is_noted(tmp_path):
    """Anybody could get it; a hidden file is never served."""
    (tmp_path / "public" / ".keys").mkdir(parents=True)
    certificate, key = Certificates(tmp_path / "public" / ".keys").issue("a.test")
    listener = f"{{address: '127.0.0.1:0', tls: {{certificates: [{{certificate: '{certificate}', key: '{key}'}}]}}}}"
    text = f"version: 1\nlisteners: {{main: {listener}}}\nroutes: [{{name: r, files: {{root: %s}}}}]\n"

    def told(root):
        return [each for each in notes(tmp_path, text % root) if "expires soon" not in each]

    assert told("public") == []
    wrong = "it contains {}, which is a part of this configuration: it is served"
    assert told(".") == ["a.yaml:3:34: routes[0].files.root: " + wrong.format("a.yaml")]
    keys = Path(certificate).parent
    assert told(keys) == ["a.yaml:3:34: routes[0].files.root: " + wrong.format(Path(key).relative_to(tmp_path))]
    (tmp_path / "linked").symlink_to(tmp_path)
    for root in ("/", "linked"):
        assert told(root) == ["a.yaml:3:34: routes[0].files.root: " + wrong.format("a.yaml")]


def test_an_error_page_that_is_not_utf_8_is_an_error_where_it_is_named(tmp_path):
    (tmp_path / "latin.html").write_bytes(b"<h1>\xe9</h1>")
    page = "error_pages: {4xx: {file: latin.html}}"
    text = (
        f"version: 1\n{page}\nlisteners: {{main: {{address: '127.0.0.1:0', {page}}}}}\n"
        f"routes: [{{name: a, respond: {{}}, {page}}}, {{name: a, upstrem: u}}]\n"
    )
    wrong = '"latin.html" is not UTF-8; expected a page in UTF-8'
    found = problems(tmp_path, text)
    assert [each for each in found if "UTF-8" in each] == [
        f"a.yaml:2:27: error_pages.4xx.file: {wrong}",
        f"a.yaml:3:70: listeners.main.error_pages.4xx.file: {wrong}",
        f"a.yaml:4:59: routes[0].error_pages.4xx.file: {wrong}",
    ]
    assert any("upstrem: unknown key" in each for each in found)


@pytest.mark.parametrize(
    ("around", "place"),
    [
        ("variants: [{weight: 1, respond: %s}, {weight: 1, respond: {}}]", "variants[0].respond"),
        ("upstream: u, fallback: {respond: %s}", "fallback.respond"),
    ],
)
def test_parts_that_variants_and_fallbacks_do_not_send_are_noted(tmp_path, around: str, place: str):
    respond = "{status: 204, body: ok}"
    found = notes(tmp_path, HEAD + "routes: [{name: a, %s}]\n" % (around % respond))
    why = "it is not sent: a response with the status 204 has no content"
    assert [each.partition(": ")[2] for each in found if why in each] == [f"routes[0].{place}.body: {why}"]


def test_parts_of_a_response_that_are_not_sent_are_noted_and_a_body_of_205_is_refused(tmp_path):
    """RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5; a 205 with a length above 0 has a body."""
    route = HEAD + "routes: [{name: a, respond: {status: %d, body: ok, headers: {Content-Length: '2', X-A: b}}}]\n"
    framing = "it is not sent: it is about a connection, or the length of a body, which the gateway sets itself"
    at = "a.yaml:4:%d: routes[0].respond."
    header = at % 79 + f"headers.Content-Length: {framing}"
    assert notes(tmp_path, route % 200) == [header]
    body = "body: it is not sent: a response with the status %d has no content"
    assert notes(tmp_path, route % 204) == [at % 49 + body % 204, header]
    assert notes(tmp_path, route % 304) == [at % 49 + body % 304, header]
    wrong = "body: a response of status 205 has no content; expected an empty body or status 200"
    assert problems(tmp_path, route % 205) == ["a.yaml:4:29: routes[0].respond: " + wrong]


def test_a_root_with_a_link_to_a_key_is_noted_if_the_key_lies_beneath_it(tmp_path):
    """A link that leads out of the root is answered 404; one to a hidden file beneath it is followed."""
    (tmp_path / "public" / ".keys").mkdir(parents=True)
    (tmp_path / "keys").mkdir()
    text = (
        "version: 1\nlisteners: {main: {address: '127.0.0.1:0', "
        "tls: {certificates: [{certificate: public/a.crt, key: public/a.key}]}}}\n"
        "routes: [{name: r, files: {root: public}}]\n"
    )
    for folder, is_noted in (("keys", False), ("public/.keys", True)):
        certificate, key = Certificates(tmp_path / folder).issue("a.test")
        for link, target in (("a.crt", certificate), ("a.key", key)):
            (tmp_path / "public" / link).unlink(missing_ok=True)
            (tmp_path / "public" / link).symlink_to(os.path.relpath(target, tmp_path / "public"))
        told = [each for each in notes(tmp_path, text) if "expires soon" not in each]
        assert [("it contains public/a.key" in each) for each in told] == [True] * is_noted


def test_a_misspelt_placeholder_of_an_error_page_is_noted_where_it_stands(tmp_path):
    (tmp_path / "404.html").write_text(
        "<style>b{color} {titel}</style>\n<!-- {titel} --><script>const {x} = y</script>\n"
        "<h1>{status} {titel}</h1>é{Request-ID} {x: 1} { title } {}\n<p>{unknown}"
    )
    told = notes(
        tmp_path,
        HEAD
        + """\
error_pages: {"404": {file: 404.html}, "5xx": {html: "<h1>{status}</h1> {faullt}"}}
routes:
  - {name: a, paths: ["/*"], upstream: u, error_pages: {"502": {json: '{"a": "{detail} {detial}"}'}}}
  - {name: b, paths: ["/b"], upstream: u, error_pages: {"502": {file: 404.html}}}
""",
    )
    told = [each for each in told if "placeholder" in each]
    assert told == [
        '404.html:3:14: {titel} is not a placeholder, and is sent as it is; did you mean "title"?',
        '404.html:3:27: {Request-ID} is not a placeholder, and is sent as it is; did you mean "request_id"?',
        "404.html:4:4: {unknown} is not a placeholder, and is sent as it is; "
        'expected one of "detail", "fault", "request_id", "status", "title"',
        'a.yaml:4:54: error_pages.5xx.html: {faullt} is not a placeholder, and is sent as it is; did you mean "fault"?',
        "a.yaml:6:71: routes[0].error_pages.502.json: {detial} is not a placeholder, and is sent as it is; "
        'did you mean "detail"?',
    ]


def test_a_missing_page_of_a_single_page_application_is_noted(tmp_path):
    """It may come later, so it is no error."""
    (tmp_path / "public").mkdir()
    files = "routes: [{name: r, files: {root: public, spa: app.html}}]\n"
    text = f"version: 1\nlisteners: {{main: {{address: '127.0.0.1:0'}}}}\n{files}"
    wrong = "no such file in `root`: its paths are answered 404"
    assert notes(tmp_path, text) == [f"a.yaml:3:47: routes[0].files.spa: {wrong}"]
    (tmp_path / "public" / "app.html").write_text("<!doctype html>")
    assert notes(tmp_path, text) == []


@pytest.mark.parametrize(
    "route",
    ["{name: a, upstream: u, use: [guarded]}", "{name: a, variants: [{use: [guarded], upstream: u}, {upstream: u}]}"],
)
def test_a_filter_set_in_use_is_not_noted(tmp_path, route):
    sets = "filter_sets: {guarded: {security_headers: {}}}"
    assert not [each for each in notes(tmp_path, f"{HEAD}routes: [{route}]\n{sets}") if "filter_sets" in each]


def test_a_list_of_addresses_without_any_is_refused(tmp_path):
    """A filter that is there to refuse, and refuses none."""
    assert problems(tmp_path, f"{HEAD}routes: [{{name: a, upstream: u, filters: {{ip: {{}}}}}}]") == [
        "a.yaml:4:47: routes[0].filters.ip: no addresses, so every request is allowed; expected `allow` or `deny`"
    ]


@pytest.mark.parametrize("key", ["circuit_breaker", "pool", "health_checks", "load_balancing"])
def test_a_setting_of_upstreams_on_a_route_is_pointed_to_its_place(tmp_path, key):
    (reported,) = problems(tmp_path, f"{HEAD}routes: [{{name: a, upstream: u, {key}: {{}}}}]\n")
    assert reported.endswith(": unknown key; expected it in upstreams.NAME, where NAME is the `upstream` of the route")


def test_an_origin_without_a_scheme_shows_the_form_and_no_regular_expression(tmp_path):
    filters = "filters: {websocket: {origins: [app.example]}}"
    (reported,) = problems(tmp_path, f"{HEAD}routes: [{{name: a, upstream: u, {filters}}}]\n")
    assert reported.endswith(
        'origins[0]: "app.example"; expected an origin without a path such as "https://app.example"'
    )


@pytest.mark.parametrize("sink", ["syslog:server=127.0.0.1:514", "syslog:server=unix:/dev/log"])
def test_a_sink_in_the_form_of_nginx_shows_ours(tmp_path, sink):
    assert problems(tmp_path, f"{HEAD}routes: []\naccess_logs: [{{sink: '{sink}'}}]\n") == [
        f'a.yaml:5:22: access_logs[0].sink: "{sink}" is a name of a file; '
        'expected {syslog: {address: "udp://logs.internal:514"}}'
    ]


def kept_in_use(folder, targets, settings="health_checks: {passive: {failures: 2}}"):
    """Return the notes on targets that health checks cannot take out of use."""
    urls = ", ".join(f"{{url: '{url}', weight: {weight}}}" for url, weight in targets)
    head = "version: 1\nlisteners: {main: {address: '127.0.0.1:0'}}\n"
    text = f"{head}upstreams: {{u: {{targets: [{urls}], {settings}}}}}\n"
    return [each for each in notes(folder, f"{text}routes: [{{name: a, upstream: u}}]\n") if "panic" in each]


def test_a_target_that_no_check_takes_out_of_use_is_noted(tmp_path):
    (note,) = kept_in_use(tmp_path, [("http://127.0.0.1:1", 1), ("http://127.0.0.1:2", 3)])
    assert note.startswith(
        "a.yaml:3:67: upstreams.u.targets[1]: it gets requests even if its health checks fail: without it 25% of the "
        "weight is left, less than `panic_threshold` (50%); set "
    )
    active = "health_checks: {active: {path: /}}"
    assert len(kept_in_use(tmp_path, [("http://127.0.0.1:1", 3), ("http://127.0.0.1:2", 1)], active)) == 1


@pytest.mark.parametrize(
    ("weights", "settings"),
    [
        ([3], "health_checks: {passive: {failures: 2}}"),
        ([1, 1], "health_checks: {passive: {failures: 2}}"),
        ([2, 1, 1], "health_checks: {passive: {failures: 2}}"),
        ([3, 0], "health_checks: {passive: {failures: 2}}"),
        ([3, 1], "health_checks: {passive: {failures: 2}}, load_balancing: {panic_threshold: 50%}"),
        ([3, 1], "health_checks: {passive: {failures: 2}}, load_balancing: {panic_threshold: 0%}"),
        ([3, 1], "retries: {max: 1}"),
    ],
)
def test_a_target_that_may_be_taken_out_of_use_is_not(tmp_path, weights, settings):
    assert (
        kept_in_use(tmp_path, [(f"http://127.0.0.1:{9 + i}", each) for i, each in enumerate(weights)], settings) == []
    )


def test_a_name_with_perhaps_several_addresses_is_not_noted(tmp_path):
    assert kept_in_use(tmp_path, [("http://heavy.test", 3), ("http://light.test", 1)]) == []
