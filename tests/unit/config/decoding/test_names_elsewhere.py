"""Names of other products get the name, or the place, that they have here."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from fastgw import config
from fastgw.config.base.names_elsewhere import FILTERS, KEYS, MOST_USED, VALUES, is_advice
from fastgw.config.base.settings_base import Settings
from fastgw.config.decoding.decoder import fields_of
from fastgw.filters import TYPES
from tests.support.table import for_each

HEAD = "version: 1\nlisteners: {main: {address: '127.0.0.1:80'}}\n"
ROUTE = "routes:\n- name: r\n  upstream: 'http://127.0.0.1:9000'\n"


def problems(folder, text):
    """The problems of a file, without its name and positions."""
    (folder / "a.yaml").write_text(text)
    with pytest.raises(config.ConfigError) as caught:
        config.load(str(folder / "a.yaml"), TYPES)
    found = caught.value.problems
    return [f"{each.path}: {str(each).partition(f'{each.path}: ')[2]}" for each in found]


@pytest.mark.parametrize(
    ("setting", "advice"),
    [
        *((f"{key}: /x", f'{key}: unknown key; expected `paths: ["/x/*"]`') for key in ("prefix", "path_prefix")),
        (
            "path: /x",
            'path: "/x"; did you mean "paths", a list such as ["/x"]? '
            'expected an object with "forward", "encoded_slash" or "root"',
        ),
        (
            "path: [/x]",
            'path: a list; did you mean "paths", a list such as ["/x"]? '
            'expected an object with "forward", "encoded_slash" or "root"',
        ),
        (
            "path: {prefix: /x}",
            'path.prefix: unknown key; expected "paths" of the route, such as `paths: ["/x/*"]`',
        ),
        (
            "match: {path: /x}",
            'match: unknown key; expected "hosts", "paths", "methods", "headers" or "query" on the route itself',
        ),
        (
            "response_headers: {A: b}",
            'response_headers: unknown key; expected the filter "headers": '
            "filters: {headers: {response: {set: {NAME: VALUE}}}}",
        ),
        *(
            (f"{key}: x", f'{key}: unknown key; expected "paths", such as `paths: ["/x/*"]`')
            for key in ("location", "uri", "endpoint", "rule", "url_pattern", "on")
        ),
        *((f"{key}: [x]", f'{key}: unknown key; did you mean "hosts"?') for key in ("domains", "host")),
        *((f"{key}: true", f'{key}: unknown key; did you mean "strip_prefix"?') for key in ("stripPath", "strip_path")),
        ("strip_prefix: true", 'strip_prefix: true; expected the prefix itself, such as "/api"'),
        (
            "filters: {websocket: {rate: 100}}",
            'filters.websocket.rate: 100 has no unit; expected a string such as "100/s"',
        ),
        (
            "filters: {websocket: {rate: '100'}}",
            'filters.websocket.rate: 100 has no unit; expected a string such as "100/s"',
        ),
        ("filters: {websocket: {rate: 0}}", 'filters.websocket.rate: "0"; expected a string such as "100/s"'),
        ("preserve_host: true", "preserve_host: unknown key; expected `host_header: preserve`"),
        *(
            (f"{key}: {{}}", f'{key}: unknown key; expected it in "filters"')
            for key in ("auth", "cors", "rate_limit", "cache", "compress", "jwt")
        ),
        ("gzip: {}", 'gzip: unknown key; expected "compress" in "filters"'),
        (
            "zzz: 1",
            'zzz: unknown key; expected one of "paths", "upstream", "filters", "methods", "redirect", "respond", '
            '"rewrite", "hosts", "strip_prefix", "headers", "query", "files", "use", "timeout", "retries", '
            '"add_prefix" or 26 more',
        ),
        (
            "filters: {key_auth: {keys: [a]}}",
            "filters.key_auth.keys: unknown key; expected them at the consumers: "
            "consumers: [{name: NAME, key_auth: [{key: KEY}]}]",
        ),
    ],
)
def test_keys_of_a_route(tmp_path, setting, advice):
    assert problems(tmp_path, f"{HEAD}{ROUTE}  {setting}\n") == [f"routes[0].{advice}"]


@pytest.mark.parametrize(
    "key",
    [
        *("service", "to", "backend", "backends", "proxy_pass", "reverse_proxy", "target", "targets", "url", "cluster"),
        "proxy",
    ],
)
def test_the_destination_of_a_route_by_another_name_is_not_missing_too(tmp_path, key):
    told = problems(tmp_path, f"{HEAD}routes: [{{name: r, {key}: 'http://a'}}]\n")
    assert told == [f'routes[0].{key}: unknown key; did you mean "upstream"?']


@for_each("target", ["{url: 'http://a'}", "{name: a, port: 80}", "{targets: [{url: 'http://a'}]}"])
def test_an_object_for_the_destination_of_a_route(target):
    with TemporaryDirectory() as folder:
        [told] = problems(Path(folder), f"{HEAD}routes: [{{name: r, upstream: {target}}}]\n")
    assert told.startswith('routes[0].upstream: an object; expected the URL itself, such as "http://127.0.0.1:9000"')


def test_several_targets_of_a_route(tmp_path):
    assert problems(tmp_path, f"{HEAD}routes: [{{name: r, upstream: ['http://a', 'http://b']}}]\n") == [
        "routes[0].upstream: a list; expected one destination: several targets belong in upstreams.NAME.targets, and "
        "NAME is the destination"
    ]


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        *((key, 'did you mean "upstreams"?') for key in ("services", "clusters", "backends")),
        *((key, 'did you mean "log"?') for key in ("error_log", "log_level")),
        *((key, 'did you mean "listeners"?') for key in ("servers", "entryPoints", "frontends")),
        ("tls", "expected it in listeners.NAME or upstreams.NAME"),
        ("cors", 'expected it in "filters"'),
    ],
)
def test_keys_at_the_top_level(tmp_path, key, advice):
    assert problems(tmp_path, f"{HEAD}{key}: {{}}\n{ROUTE}") == [f"{key}: unknown key; {advice}"]


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("request_bodies_idle", 'did you mean "request_body_idle"?'),
        ("request_header", 'did you mean "request_headers"?'),
        *(
            (
                key,
                'expected one of "drain", "filters", "keepalive", "request_body_idle", "request_body_rate", '
                '"request_headers", "response_idle"',
            )
            for key in ("cors", "gzip")
        ),
    ],
)
def test_keys_of_timeouts_are_not_looked_for_among_filters(tmp_path, key, advice):
    """`timeouts.filters` is a duration."""
    assert problems(tmp_path, f"{HEAD}timeouts: {{{key}: 3s}}\n{ROUTE}") == [f"timeouts.{key}: unknown key; {advice}"]


def test_listeners_by_another_name_are_not_missing_too(tmp_path):
    assert problems(tmp_path, f"version: 1\nservers: {{}}\n{ROUTE}") == [
        'servers: unknown key; did you mean "listeners"?'
    ]


def test_tls_of_a_token_endpoint(tmp_path):
    credentials = "{type: oauth2, token_url: 'https://b', client_id: c, client_secret: s, tls: {ca: a.pem}}"
    text = f"{HEAD}egress: {{apps: {{shop: {{orders: {{url: 'https://a', credentials: {credentials}}}}}}}}}\n"
    assert problems(tmp_path, text) == [
        'egress.apps.shop.orders.credentials.tls: unknown key; expected "token_tls" for the token endpoint, or "tls" '
        "of the service for the API itself"
    ]


def test_the_file_of_an_access_log(tmp_path):
    told = problems(tmp_path, f"{HEAD}access_logs: [{{file: x.log}}]\n{ROUTE}")
    assert told == ['access_logs[0].file: unknown key; did you mean "sink"?']


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        *((name, 'did you mean "jwt"?') for name in ("jwt_authn", "auth_jwt", "jwt_auth", "jwt_validator")),
        *((name, 'did you mean "oidc"?') for name in ("openid-connect", "openid_connect")),
        *((name, 'did you mean "forward_auth"?') for name in ("ext_authz", "auth_request")),
        ("hmac-auth", 'did you mean "hmac"?'),
        ("mtls-auth", 'did you mean "certificate_auth"?'),
        ("request-transformer", 'expected "headers", "query_parameters" or "transform"'),
        *((name, 'expected "headers" or "transform"') for name in ("response_transformer", "response_headers")),
        ("proxy_set_header", 'did you mean "headers"?'),
        *((name, 'did you mean "size"?') for name in ("request_size", "request_body", "request-size-limiting")),
        ("errors", "expected `error_pages`, which is no filter"),
        *((name, 'did you mean "ip"?') for name in ("allow", "ip-restriction", "ipAllowList")),
        ("limit_req", 'did you mean "rate_limit"?'),
        *((name, 'did you mean "concurrency"?') for name in ("limit_conn", "inFlightReq")),
        ("auth_basic", 'did you mean "basic_auth"?'),
        ("modsecurity", 'did you mean "waf"?'),
        ("respond", "expected `respond` of the route, which is no filter"),
        ("aws-lambda", "expected `lambda` of the route, which is no filter"),
        *((name, "expected `files` of the route, which is no filter") for name in ("static", "file_server")),
        ("grpc-gateway", 'did you mean "grpc_transcode"?'),
        ("gzip", 'did you mean "compress"?'),
    ],
)
def test_types_of_filters(tmp_path, name, advice):
    told = problems(tmp_path, f"{HEAD}{ROUTE}  filters: {{{name}: {{}}}}\n")
    assert told == [f'routes[0].filters.{name}: unknown filter type "{name}"; {advice}']


def settings_called(name):
    found, waiting = set(), [Settings]
    while waiting:
        each = waiting.pop()
        waiting += each.__subclasses__()
        found |= {each} if each.__name__ == name else set()
    return found


@pytest.mark.parametrize("name", sorted({*KEYS, *VALUES, *MOST_USED}))
def test_the_tables_are_about_settings_that_exist(name):
    (settings,) = settings_called(name)
    known = fields_of(settings)
    assert not known.keys() & KEYS.get(name, {}).keys()  # a known key is never looked up
    assert {here for here in KEYS.get(name, {}).values() if not is_advice(here)} <= known.keys()
    assert {*VALUES.get(name, {}), *MOST_USED.get(name, ())} <= known.keys()


def test_the_types_of_filters_exist():
    assert not FILTERS.keys() & TYPES.keys()
    assert {here for here in FILTERS.values() if not is_advice(here)} <= TYPES.keys()
