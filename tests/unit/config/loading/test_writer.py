"""The configuration as a file would say it: what it says means the same again, and tells no secret."""

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from fastgw import config
from fastgw.config.base.value_types import (
    parse_delay,
    parse_duration,
    parse_endpoint,
    parse_percent,
    parse_size,
    write_duration,
    write_endpoint,
    write_size,
)
from fastgw.config.decoding.json_schema import schema
from fastgw.config.settings.secrets import MASK
from fastgw.config.sources import files
from fastgw.filters import TYPES
from tests.support.table import for_each

ROOT = Path(__file__).parents[4]
EXAMPLES = sorted(ROOT.joinpath("examples").glob("*.*"))
FILES = [*EXAMPLES, ROOT / "tests" / "contract" / "explain" / "gateway.yaml"]
EVERYTHING = """
version: 1
workers: 3
listeners:
  a: {address: "[::1]:0", trusted_proxies: [10.0.0.0/8, "::1"], proxy_protocol: required, filters: {size: {body: 5}}}
  b: {address: "unix:/run/b"}
status: null
admin: {address: "127.0.0.1:0"}
timeouts: {request_headers: 250ms, keepalive: 90m, drain: {delay: 0, tunnels: 1h}}
limits: {header_bytes: 8KiB, body_bytes: 10MB, connections_per_ip: 5}
access_logs: [{sink: stdout}, {sink: /tmp/a.log, format: ecs, redact: [a]}]
upstreams:
  u:
    targets: [{url: "https://u:9000/base", weight: 3}, {url: "unix:/run/u:/x"}]
    timeouts: {total: 1500ms}
    retries: {max: 0, conditions: [], budget: 12.5%}
    health_checks: {active: {path: "/up?x", expected_statuses: ["200-399", "404"], headers: {x: y}}, passive: {}}
    circuit_breaker: {error_rate: 30%}
    tls: {verify: false}
filter_sets: {s: {headers: {request: {remove: [x], set: {x-a: b}}}, size: null}}
filters: {request_id: {enforced: true}, limit: {type: size, body: 1MiB}}
routes:
  - {name: r, listeners: [a], hosts: ["*.example"], paths: ["/a/{b}"], methods: [GET], headers: {x: "1"},
     query: {q: "2"}, upstream: u, rewrite: "/{b}", path: {encoded_slash: reject}, forwarded: append, upgrade: [],
     timeout: 10s, use: [s]}
  - {name: "s t", respond: {status: 404, body: "\\u00e4", headers: {x: y}}}
  - {name: t, redirect: {to: /}}
  - {name: v, upstream: "http://v/", path: {forward: raw}}
"""


def again(folder, said):
    return config.load_text(json.dumps(said).encode(), str(folder / "again.json"), TYPES).config


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_same_again(tmp_path, file):
    loaded = config.load(str(file), TYPES).config
    providers = replace(loaded.providers, kyma=None, kubernetes=None)
    told_elsewhere = {"consumers": (), "egress": None, "providers": providers}
    said = config.effective(loaded)
    if MASK in json.dumps(said):  # its secrets are nobody's to see, and all that is told of them is told again
        assert config.effective(again(tmp_path, said)) == said
    else:
        assert again(tmp_path, said) == replace(loaded, **told_elsewhere)


def test_numbers_of_any_value_keep_their_digits(tmp_path):
    template = {"n": 12345678901234567890123}
    said = {
        "version": 1,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "upstreams": {"u": {"targets": ["http://u:1"]}},
        "filters": {"transform": {"request": {"template": template}}},
        "routes": [{"name": "r", "upstream": "u"}],
    }
    told = config.effective(again(tmp_path, said))
    assert told["filters"]["transform"]["request"]["template"] == template


def test_every_kind_of_value_again(tmp_path):
    import jsonschema  # not by every process that collects this file: it takes 2 s

    loaded = config.load_text(EVERYTHING.encode(), str(tmp_path / "a.yaml"), TYPES).config
    said = config.effective(loaded)
    jsonschema.Draft202012Validator(schema(TYPES)).validate(said)
    assert again(tmp_path, said) == loaded
    assert said["timeouts"]["drain"] == {"delay": "0s", "requests": "30s", "tunnels": "1h"}
    assert said["timeouts"]["keepalive"] == "90m"
    assert said["limits"]["header_bytes"] == "8KiB"
    assert said["upstreams"]["u"]["targets"][0] == {"url": "https://u:9000/base", "weight": 3, "priority": 0}
    assert said["upstreams"]["u"]["health_checks"]["active"]["expected_statuses"] == ["200-399", "404"]
    assert said["upstreams"]["u"]["retries"]["budget"] == "12.5%"
    assert said["filters"]["limit"] == {"type": "size", "enforced": False, "shadow": False, "body": "1MiB"}
    assert said["listeners"]["a"]["trusted_proxies"] == ["10.0.0.0/8", "::1/128"]


SOURCES = {
    "file": ({"file": "list.yaml"}, {}),
    "dns": ({"dns": "users.invalid", "port": 80, "scheme": "https", "interval": "1m"}, {}),
    "srv": ({"srv": "_http._tcp.users.invalid"}, {}),
    "consul": ({"consul": "users", "tags": ["v2"]}, {"consul": {"address": "http://127.0.0.1:9"}}),
    "nacos": ({"nacos": "users", "clusters": ["a"]}, {"nacos": {"address": "http://127.0.0.1:9"}}),
    "eureka": ({"eureka": "users"}, {"eureka": {"address": "http://127.0.0.1:9"}}),
    "docker": ({"docker": "users", "port": 80}, {"docker": {"address": "unix:/nowhere"}}),
}


@pytest.mark.parametrize(("source", "providers"), SOURCES.values(), ids=SOURCES)
def test_targets_are_written_as_their_source(tmp_path, monkeypatch, source, providers):
    """Whether it has targets yet or not, such a list is followed again by who reads the document."""
    monkeypatch.setattr(files, "looked_up", lambda name, **_: b'["http://127.0.0.1:1"]')
    tmp_path.joinpath("list.yaml").write_text('["http://127.0.0.1:1"]')
    head = {"version": 1, "listeners": {"a": {"address": "127.0.0.1:0"}}, "providers": providers}
    loaded = again(tmp_path, head | {"upstreams": {"u": {"targets": source}}})
    said = config.effective(loaded)
    expected = source | ({"file": str(tmp_path / "list.yaml")} if "file" in source else {})
    assert {**said["upstreams"]["u"]["targets"], **expected} == said["upstreams"]["u"]["targets"]
    assert again(tmp_path, said) == loaded


def test_routes_of_an_openapi_document_are_written_as_its_entry(tmp_path):
    """Routes before and after it stay where they are, and the document's are made of it again."""
    paths = {f"/{name}": {"get": {"operationId": name, "responses": {}}} for name in "abc"}
    tmp_path.joinpath("a.json").write_text(json.dumps({"openapi": "3.1.0", "info": {}, "paths": paths}))
    entry = {"openapi": {"file": "a.json", "upstream": "http://127.0.0.1:1"}}
    routes = [{"name": "first", "respond": {}}, entry, {"name": "between", "respond": {}}, entry | {"name": "again"}]
    head = {"version": 1, "listeners": {"a": {"address": "127.0.0.1:0"}}, "routes": routes}
    loaded = again(tmp_path, head)
    assert [each.name for each in loaded.routes][:5] == ["first", "a", "b", "c", "between"]
    said = config.effective(loaded)
    assert ["openapi" in each for each in said["routes"]] == [False, True, False, True]
    assert again(tmp_path, said) == loaded


def test_includes_are_merged_in_it(tmp_path):
    (tmp_path / "b.yaml").write_text("routes: [{name: b, respond: {}}]\n")
    text = "version: 1\nlisteners: {a: {address: '127.0.0.1:0'}}\ninclude: [b.yaml]\n"
    said = config.effective(config.load_text(text.encode(), str(tmp_path / "a.yaml"), TYPES).config)
    assert "include" not in said
    assert [route["name"] for route in said["routes"]] == ["b"]


def test_no_secret_is_in_it(tmp_path, monkeypatch):
    monkeypatch.setenv("GW_SECRET", "from-env")
    (tmp_path / "token").write_text("from-file")
    text = (
        "version: 1\nlisteners: {a: {address: '127.0.0.1:0'}}\nadmin: {token: %s}\n"
        "filters: {headers: {request: {set: {authorization: Bearer hidden, x-api-key: hidden, x-plain: shown}}}}\n"
        "routes: [{name: r, headers: {Cookie: hidden}, query: {access_token: hidden, q: shown}, respond: {}}]\n"
    )
    for token in ("hidden", "{env: GW_SECRET}", "{file: token}"):
        said = config.effective(config.load_text((text % token).encode(), str(tmp_path / "a.yaml"), TYPES).config)
        assert said["admin"]["token"] == "***"
        told = json.dumps(said)
        assert told.count('"***"') == 5
        assert told.count("shown") == 2
        for secret in ("hidden", "from-env", "from-file"):
            assert secret not in told


@for_each(
    "text", ["1ms", "250ms", "1500ms", "0.5ms", "10s", "90s", "1m", "90m", "1h", "8760h", "59s", "61s", "100ms", "70ms"]
)
def test_durations_are_written_as_they_are_read(text):
    assert write_duration(parse_duration(text)) == text


@pytest.mark.parametrize(("read", "text"), [("60s", "1m"), ("1.5h", "90m"), ("0.25s", "250ms"), ("1000ms", "1s")])
def test_durations_are_written_shortly(read, text):
    assert write_duration(parse_duration(read)) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://idp.test/keys", "https://idp.test/keys"),
        ("https://idp.test/keys?tenant=planted&b=", "https://idp.test/keys?tenant=***&b="),
        ("https://idp.test/keys?planted", "https://idp.test/keys?***"),
        ("https://idp.test/?a=planted=planted&planted", "https://idp.test/?a=***&***"),
        ("https://idp.test?=planted", "https://idp.test/?=***"),
        ("unix:/run/idp.sock:/keys?a=planted", "unix:/run/idp.sock:/keys?a=***"),
    ],
)
def test_what_is_in_the_query_of_an_endpoint_is_not_shown(text, shown):
    assert write_endpoint(parse_endpoint(text)) == shown


def test_no_query_of_an_endpoint_is_in_it(tmp_path):
    said = {"introspection": {"url": "https://a/?x=planted", "client_id": "a", "client_secret": "b" * 20}}
    said |= {"forward_auth": {"url": "https://a/?x=planted"}}
    said |= {"jwt": {"algorithms": ["RS256"], "jwks_uri": "https://a/?x=planted"}}
    head = {"version": 1, "listeners": {"a": {"address": "127.0.0.1:0"}}, "filters": said}
    told = json.dumps(config.effective(again(tmp_path, head)))
    assert told.count("https://a/?x=***") == 3
    assert "planted" not in told


def test_no_value_of_a_query_for_an_upstream_is_in_it(tmp_path):
    head = {"version": 1, "listeners": {"a": {"address": "127.0.0.1:0"}}}
    parameters = {"query_first": "key=planted&b=&planted"}
    service = {"url": "https://a.test", "request_parameters": parameters}
    head |= {"filters": {"request_parameters": parameters}, "egress": {"apps": {"shop": {"orders": service}}}}
    told = json.dumps(config.effective(again(tmp_path, head)))
    assert told.count('"query_first": "key=***&b=&***"') == 2
    assert "planted" not in told


def test_no_delay_is_written_as_zero_seconds():
    assert parse_delay(write_duration(0.0)) == 0.0


@for_each("text", ["0B", "5B", "1023B", "1KiB", "32KiB", "10MB", "1MiB", "1GiB", "3GB", "1500kB"])
def test_sizes_are_written_as_they_are_read(text):
    assert parse_size(write_size(parse_size(text))) == parse_size(text)
    assert write_size(parse_size(text)) == text


@pytest.mark.parametrize("text", ["0%", "7%", "12.5%", "33.3%", "100%"])
def test_shares_are_written_as_they_are_read(tmp_path, text):
    head = "version: 1\nlisteners: {a: {address: '127.0.0.1:0'}}\n"
    upstream = f"upstreams: {{u: {{targets: [{{url: 'http://u'}}], retries: {{budget: {text}}}}}}}\n"
    made = config.load_text((head + upstream).encode(), str(tmp_path / "a.yaml"), TYPES).config
    assert made.upstreams["u"].retries.budget == parse_percent(text)
    assert config.effective(made)["upstreams"]["u"]["retries"]["budget"] == text
