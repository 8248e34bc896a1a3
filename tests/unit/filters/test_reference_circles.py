"""What a filter holds goes with it. A circle would stay for ever: what serves at a reload is frozen for the collector.

Each filter is built with each kind of setting that it has, and dropped; so is an egress service, and a filter of a
package.
"""

from __future__ import annotations

import gc
import importlib.util
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fastgw.config.settings.gateway import Config
from fastgw.config.sources.virtual_files import networks_name
from fastgw.filters import TYPES
from fastgw.gateway.compiler import building, compile
from fastgw.gateway.tables import dismantling
from fastgw.net.network_lists import pack_list
from fastgw.routing.table import at_once
from tests.support import mmdb
from tests.support.bookstore import api
from tests.support.collector import no_collector
from tests.support.generations import load_document, plan_after
from tests.support.memory import SERVICE
from tests.support.tokens import key_set, signer

PACKAGE = Path(__file__).parents[3] / "examples" / "filter_package"
JWKS = {"issuer": "https://idp.test", "audiences": ["a"], "algorithms": ["RS256"], "jwks_uri": "https://idp.test/keys"}
INTROSPECTION = {"url": "https://as.test/introspect", "client_id": "gateway", "client_secret": "a secret"}
OIDC = {"issuer": "https://idp.test"}
LOGIN = {"client_id": "a", "client_secret": "b", "session": {"secret": "c" * 32}}
TLS = {"verify": False}
RULE = [{"claim": "role", "any_of": ["admin"]}, {"claim": "tenant", "matches": "^t-"}]

GENERATED = "openapi:///shop.json/1/schemas.json"
"""A file that is made of an OpenAPI document."""
DEFINITIONS = {"$defs": {"0": {"type": "object"}}, "properties": {"0": {"$ref": "#/$defs/0"}}}
GENERATED_FILES = {GENERATED: json.dumps(DEFINITIONS).encode()}

SAMPLES: dict[str, list[dict[str, Any]]] = {
    "sequence": [{"routes": ["a", "b"], "within": "1m", "key": "ip", "ipv6_prefix": 64}],
    "graphql": [
        {"max_depth": 5, "max_cost": 10, "costs": {"a": 2}, "list_arguments": ["first"], "list_size": 3},
        {"max_aliases": 1, "max_directives": 1, "max_root_fields": 1, "max_tokens": 10, "max_bytes": "1KiB"},
        {"max_batch": 2, "introspection": True, "types": ["query"], "operations": ["A"], "mode": "report"},
        {"persisted_queries": ["5e78863ed1ffb9fc66b1d61634b126bf8eb20267e7996297eeeb9b19c8c0f732"]},
    ],
    "fault": [
        {"delay": {"time": "1s"}, "header": {"name": "X-A", "value": "b"}, "max_delayed": 1, "seed": 1},
        {"abort": {"status": 503}, "by_client": True, "max_delay": "1s"},
    ],
    "bandwidth": [
        {"rate": "1MiB/s", "burst": "1MiB", "key": "ip", "ipv6_prefix": 64},
        {"request_rate": "1kB/s"},
    ],
    "request_id": [{"header": "X-Id", "trust_client": True}],
    "misdirected": [{"groups": [["a.test"], ["*.test"]]}],
    "https_redirect": [{"status": 301, "port": 8443, "hosts": ["a.test"], "exceptions": ["/.well-known/*"]}],
    "ip": [
        {"allow": ["10.0.0.0/8"], "deny": ["10.1.0.0/16", "fe80::/10"], "unix": True},
        {"allow_lists": [{"url": "https://lists.test/a"}], "deny_lists": [{"file": "FILES/deny.txt"}]},
        {"countries": {"database": "FILES/countries.mmdb", "allow": ["DE"], "header": "X-Country"}},
    ],
    "cors": [
        {"origins": ["*"], "methods": ["*"], "headers": ["*"], "credentials": True, "reflect": True},
        {
            "origins": ["https://a.test", "https://*.b.test"],
            "methods": ["GET"],
            "headers": ["X-A"],
            "expose": ["X-B"],
            "credentials": True,
            "max_age": "1m",
            "private_network": True,
            "preflight": "answer",
        },
        {"origins": ["https://a.test"], "preflight": "forward"},
    ],
    "security_headers": [
        {
            "preset": "strict",
            "existing": "keep",
            "strict_transport_security": "max-age=1",
            "content_security_policy": "default-src 'none'",
            "x_frame_options": "DENY",
            "x_content_type_options": "nosniff",
            "referrer_policy": "no-referrer",
            "permissions_policy": "camera=()",
            "cross_origin_opener_policy": "same-origin",
            "cross_origin_resource_policy": "same-site",
        }
    ],
    "jwt": [
        JWKS
        | {
            "tls": TLS,
            "leeway": "1s",
            "required_claims": ["exp"],
            "require_kid": False,
            "types": ["JWT"],
            "foreign_keys": "ignore",
            "scopes": ["read"],
            "claim_rules": RULE,
            "claims_to_headers": {"sub": "X-Sub"},
            "consumer_claim": "sub",
            "header": "X-Token",
            "hide_credentials": True,
            "max_token_bytes": "1KiB",
            "cache": {"entries": 10},
            "realm": "r",
        },
        {"algorithms": ["HS256"], "secret": "x" * 32, "audiences": ["a"], "cookie": "token", "header": None},
        {"algorithms": ["HS256"], "secret": "x" * 32, "audiences": ["a"], "query": "token", "header": None},
        {"algorithms": ["HS256"], "consumer_keys": "iss"},
        {"algorithms": ["HS256"], "secret": "x" * 64, "secret_is_base64": True, "audiences": ["a"]},
        {"algorithms": ["ES256"], "jwks_file": "FILES/keys.json", "audiences": ["a"]},
    ],
    "key_auth": [
        {"key_names": ["apikey"], "key_in": ["header", "query", "cookie"], "hide_credentials": True, "realm": "r"}
    ],
    "basic_auth": [{"htpasswd": "FILES/users", "hide_credentials": True, "realm": "r", "cache_ttl": "1m"}, {}],
    "hmac": [
        {
            "components": ["@method", "@path"],
            "body": False,
            "max_age": "1m",
            "clock_skew": "1s",
            "tag": "t",
            "forwarded_host": True,
            "hide_credentials": True,
            "realm": "r",
        },
        {"body": True},
    ],
    "certificate_auth": [{"realm": "r"}],
    "introspection": [
        INTROSPECTION
        | {
            "client_auth": "post",
            "tls": TLS,
            "timeout": "1s",
            "max_pending": 9,
            "issuer": "https://as.test",
            "audiences": ["a"],
            "leeway": "1s",
            "required_claims": ["exp"],
            "token_types": ["Bearer"],
            "scopes": ["read"],
            "claim_rules": RULE,
            "claims_to_headers": {"sub": "X-Sub"},
            "consumer_claim": "sub",
            "hide_credentials": True,
            "cache": {"entries": 10},
            "realm": "r",
        }
    ],
    "forward_auth": [
        {
            "url": "https://auth.test/verify",
            "tls": TLS,
            "timeout": "1s",
            "request_headers": ["Authorization"],
            "copy_headers": ["X-User"],
            "client_headers": ["Set-Cookie"],
            "refusal_headers": ["WWW-Authenticate"],
            "consumer_header": "X-User",
            "cache": {"key_headers": ["Authorization"]},
            "max_body_bytes": "1KiB",
        }
    ],
    "oidc": [
        OIDC
        | {
            "bearer": {"audiences": ["a"]},
            "login": LOGIN,
            "tls": TLS,
            "algorithms": ["RS256"],
            "leeway": "1s",
            "claims_to_headers": {"sub": "X-Sub"},
            "consumer_claim": "sub",
            "cache": {"entries": 10},
            "realm": "r",
        },
        OIDC | {"bearer": {"audiences": ["a"]}},
        OIDC | {"login": LOGIN},
    ],
    "auth": [{"any_of": [{"key_auth": {}}, {"basic_auth": {}}, {"jwt": JWKS}], "anonymous": "alice"}],
    "all_of": [{"methods": [{"key_auth": {}}, {"basic_auth": {}}]}],
    "authorize": [
        {
            "consumers": {"any": ["alice"]},
            "groups": {"any": ["staff"], "none": ["out"]},
            "scopes": {"all": ["read"]},
            "claims": {"a": {"any": ["b"]}},
            "any_of": [{"groups": {"any": ["staff"]}}],
            "none_of": [{"groups": {"any": ["out"]}}],
            "realm": "r",
        },
        {"certificate": {"subject": {"any": ["CN=a"]}, "san": {"any": ["DNS:a.test"]}}},
    ],
    "rate_limit": [
        {
            "limit": 5,
            "window": "1s",
            "burst": 9,
            "algorithm": "token_bucket",
            "scope": "node",
            "key": ["consumer", "header:X-A", "claim:sub"],
            "ipv6_prefix": 48,
            "exempt": ["10.0.0.0/8"],
            "cost": {"methods": {"POST": 5}, "response_header": "X-Cost"},
            "groups": {"staff": {"limit": 50}},
            "headers": "legacy",
        },
        {"limit": 5, "window": "1s", "algorithm": "fixed_window", "key": "ip"},
        {"limit": 5, "window": "1s", "algorithm": "sliding_window", "key": "route", "headers": "none"},
        {"limit": 5, "window": "1s", "algorithm": "leaky_bucket", "key": "cookie:a"},
    ],
    "quota": [
        {
            "limit": 5,
            "period": "day",
            "time_zone": "Europe/Berlin",
            "key": "consumer",
            "ipv6_prefix": 48,
            "groups": {"staff": {"limit": 50}},
            "headers": "legacy",
        },
        {"limit": 5, "period": "1h", "key": "ip"},
    ],
    "websocket": [
        {
            "message_bytes": "64KiB",
            "rate": "100/s",
            "idle": "1m",
            "total": "1h",
            "per_consumer": 5,
            "ping": "20s",
            "origins": ["https://app.test"],
            "reauthenticate": "15m",
            "log_messages": "20/s",
            "close_timeout": "5s",
            "extensions": "strip",
        }
    ],
    "openapi": [
        {
            "operation": {
                "id": "add",
                "parameters": [{"in": "query", "name": "n", "types": ["integer"], "schema": {"type": "integer"}}],
                "body": {
                    "required": True,
                    "content": {"application/json": {"kind": "json", "schema": {"$ref": "#/$defs/0"}}},
                },
                "responses": {"200": {"application/json": {"kind": "json"}}},
                "mock": {"200": {"headers": [], "content": []}},
            },
            "schemas": GENERATED,
            "mode": mode,
            "max_body": "1KiB",
        }
        for mode in ("enforce", "report", "off")
    ],
    "openapi_document": [{"file": GENERATED, "content_type": "application/json"}],
    "waf": [
        {
            "rules": "default",
            "custom": [{"id": 10001, "pattern": "/old/", "targets": ["path"], "severity": "notice", "tags": ["old"]}],
            "rules_file": "FILES/rules.yaml",
            "paranoia": 2,
            "threshold": 7,
            "body_bytes": "1KiB",
            "long_body": "refuse",
            "max_arguments": 10,
            "exclude": [{"rules": [4201], "paths": ["/a/*"], "arguments": ["b"]}],
        },
        {"rules": "none", "crs": {"processes": 1, "deadline": "1s", "on_timeout": "refuse"}},
    ],
    "grpc_web": [{}],
    "connect_rpc": [{"message_bytes": "1MiB", "get": ["SayHello"]}],
    "grpc_transcode": [
        {
            "descriptors": "FILES/api.pb",
            "services": ["bookstore.v1.Bookstore"],
            "auto_mapping": True,
            "message_bytes": "1MiB",
            "preserve_proto_field_names": True,
            "always_print_primitive_fields": True,
            "always_print_enums_as_ints": True,
            "unknown_fields": "ignore",
            "ignored_query_parameters": ["key"],
        }
    ],
    "concurrency": [
        {
            "limit": 5,
            "key": "ip",
            "ipv6_prefix": 48,
            "status": 429,
            "retry_after": "1s",
        },
        {"adaptive": {}, "priority": {"groups": {"staff": "high"}, "header": "X-Priority"}},
    ],
    "compress": [
        {
            "encodings": ["gzip", "zstd", "br"],
            "types": ["text/*", "application/*+json"],
            "min_bytes": "1KiB",
            "level": "best",
            "random_padding": True,
        },
        {},
    ],
    "decompress": [{"encodings": ["gzip"], "max_bytes": "1MiB", "max_ratio": 50}],
    "size": [{"body": "1KiB"}],
    "cache": [
        {
            "store": "main",
            "ttl": "1m",
            "ttl_by_status": {"404": "1s"},
            "override_ttl": "1m",
            "stale_while_revalidate": "1s",
            "stale_if_error": "1s",
            "stale_when_unreachable": "1s",
            "key": {"query": {"only": ["a"]}, "headers": ["X-A"], "cookies": ["b"]},
            "vary_by": ["consumer"],
            "store_set_cookie": True,
            "content_types": ["text/*"],
            "storage_ttl": "1m",
            "dangerously_ignore_cache_control": True,
            "max_variants": 2,
            "lock_timeout": "1s",
            "methods": ["GET", "POST"],
            "body_bytes": "1KiB",
            "bypass": {"header": "X-B"},
            "tag_header": ["Cache-Tag"],
            "purge_method": {"allow": ["127.0.0.0/8"]},
        }
    ],
    "egress_calls": [{"user_agent": "pass", "unavailable": "gone"}, {"ambiguous": "two of them"}, {}],
    "unknown_service": [
        {"apps": ["shop"], "addressing": "path", "several": {"shop/orders": ["a", "b"]}, "awaited": True}
    ],
    "headers": [
        {
            "request": {"remove": ["A"], "set": {"B": "{client_ip}", "C": "{consumer.name}"}, "add": {"D": "d"}},
            "response": {"remove": ["A"], "set": {"B": "{claims.sub} {host}"}, "add": {"D": "d {path}"}},
        },
        {
            "maps": {"m": {"source": "{header.A}", "values": {"a": "b", "~c": "d"}, "default": "e"}},
            "request": {"set": {"B": "{map.m}"}},
        },
        {"request": {"set": {"B": "b"}}},
        {"response": {"set": {"B": "b"}}},
    ],
    "response_urls": [
        {"urls": ["http://127.0.0.1:9"], "path": "/shop", "cookies": "rewrite", "root": "bare", "any_port": True},
        {"urls": ["http://127.0.0.1:9"], "path": "/shop", "cookies": "keep"},
    ],
    "target_errors": [{"statuses": ["500-599"], "status": 502, "header": "Target-Status"}],
    "mirror": [{"upstream": "u", "share": "10%", "body_bytes": "1KiB", "in_flight": 5, "compare": True}],
    "credentials": [
        {
            "basic": {"username": "a", "password": "b"},
            "access_token_header": "Access-Token",
            "hide_authorization": True,
        },
        {"headers": {"X-Key": "k"}},
        {"bearer": "a"},
        {
            "oauth2": {"token_url": "https://idp.test/token", "client_id": "a", "client_secret": "b"},
            "csrf": {"token_url": "https://api.test/csrf"},
        },
        {"gcp_id_token": {"audience": "a"}},
        {"token_exchange": {"token_url": "https://sts.test/token", "subject_token": "a"}},
        {"aws_sigv4": {"region": "r", "service": "s3", "access_key_id": "a", "secret_access_key": "b"}},
    ],
    "validate": [
        {
            "body": {"inline": {"type": "object"}, "required": False, "max_bytes": "1KiB"},
            "query": {"inline": {"properties": {"a": {"type": "integer"}}}},
            "path": {"inline": True},
            "headers": {"inline": True},
            "cookies": {"inline": True},
            "response": {"inline": {"type": "object"}},
            "mode": "report",
        },
        {"query": {"inline": {"required": ["none"]}}},
    ],
    "transform": [
        {
            "request": {"json": {"allow": ["a"], "rename": {"a": "b"}, "set": {"c": "{{ a.b || `1` }} {method}"}}},
            "response": {"template": {"a": "{{ b }}", "m": "{method}"}, "statuses": ["200-599"]},
        },
        {
            "request": {"input": "form"},
            "response": {"output": "form", "json": {"move": {"a": "b"}, "default": {"c": 1}}},
        },
    ],
    "query_parameters": [{"remove": ["a"], "rename": {"b": "c"}, "set": {"d": "{path}"}, "add": {"e": "f"}}],
    "request_parameters": [{"headers": {"X-Tenant": ["t"]}, "query": {"client": ["100"]}, "query_first": "a=b"}],
}


def test_there_is_a_sample_of_each_setting_of_each_filter() -> None:
    settings = {name: {field.name for field in msgspec.structs.fields(each)} for name, each in TYPES.items()}
    common = {"shadow", "enforced", "type"}
    assert {name: set().union(*each) for name, each in SAMPLES.items()} == {
        name: fields - common for name, fields in settings.items()
    }


def document(filters: dict[str, Any], **more: Any) -> dict[str, Any]:
    routes = [{"name": "all", "paths": ["/{id}"], "upstream": "u", "filters": filters}]
    alice = {"name": "alice", "groups": ["staff"], "key_auth": [{"key": "k"}]}
    bob = {"name": "bob", "basic_auth": [{"username": "bob", "password": "p"}]}
    return {**SERVICE, "consumers": [alice, bob], "routes": routes, **more}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    sample_files(folder)
    return folder


def sample_files(folder: Path) -> None:
    """Those that `SAMPLES` name."""
    (folder / "api.pb").write_bytes(api())
    (folder / "deny.txt").write_text("192.0.2.0/24\n")
    GENERATED_FILES[networks_name(str(folder / "deny.txt"))] = pack_list(b"192.0.2.0/24\n")
    mmdb.write(folder / "countries.mmdb", {"192.0.2.0/24": mmdb.country("DE")})
    (folder / "keys.json").write_bytes(key_set(signer("ES256")))
    (folder / "rules.yaml").write_text("- {id: 10002, pattern: secret, tags: [leak]}\n")
    (folder / "users").write_text("alice:$2y$04$Ro0CUfOqk6cXEKf3dyaM7OhSCvnwM9s4wIX9JeLapehKK5YdLxKcm\n")


def settled(sample: Any, folder: Path) -> Any:
    """The same with the files of this folder."""
    if isinstance(sample, dict):
        return {key: settled(value, folder) for key, value in sample.items()}
    if isinstance(sample, list):
        return [settled(value, folder) for value in sample]
    return sample.replace("FILES", str(folder)) if isinstance(sample, str) else sample


def garbage_of(configuration: Config, other: Config) -> list[str]:
    """What only the collector would find of it: built, taken over by another, and dropped."""
    for _ in range(2):  # what is made once, when something is looked at for the first time, is no leak
        left: list[str] = []
        with no_collector():
            base = compile(configuration, 1, GENERATED_FILES)
            new = at_once(building(plan_after(configuration, other, GENERATED_FILES), 1, base))
            at_once(dismantling(base, new))
            del base, new
            gc.set_debug(gc.DEBUG_SAVEALL)
            try:
                gc.collect()
                left += [f"{type(each).__name__} {getattr(each, '__qualname__', '')}" for each in gc.garbage]
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.collect()
    return left


EVERY = [(name, number) for name, samples in SAMPLES.items() for number in range(len(samples))]


@pytest.mark.parametrize(("name", "number"), EVERY, ids=[f"{name}-{number}" for name, number in EVERY])
@pytest.mark.parametrize("shadow", [False, True], ids=["enforced", "shadow"])
def test_a_filter_that_is_dropped_leaves_nothing(name: str, number: int, shadow: bool, files: Path) -> None:
    settings = settled(SAMPLES[name][number], files)
    if shadow:
        settings["shadow"] = True
    left = garbage_of(load_document(document({name: settings})), load_document(document({})))
    if name == "grpc_transcode":  # classes are circles; there are some for each descriptor set that was ever in force
        left = [each for each in left if each.split()[0] not in ("MessageMeta", "Descriptor", "tuple", "dict")]
    assert left == []


def test_an_egress_service_that_is_dropped_leaves_nothing() -> None:
    credentials = {"type": "oauth2", "token_url": "https://idp.test/token", "client_id": "a", "client_secret": "b"}
    service = {
        "url": "https://api.test/v2",
        "credentials": credentials,
        "csrf": {"token_url": "https://api.test/csrf"},
        "request_parameters": {"headers": {"X-Tenant": ["t"]}, "query": {"client": ["100"]}},
    }
    apps = {"shop": {"orders": service}}
    assert garbage_of(load_document(document({}, egress={"apps": apps})), load_document(document({}))) == []


def test_a_filter_of_a_package_that_is_dropped_leaves_nothing() -> None:
    spec = importlib.util.spec_from_file_location("read_only", PACKAGE / "read_only.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    types = {**TYPES, "read_only": module.ReadOnly}
    sample = {"retry_after": "1m", "except_groups": ["staff"]}
    assert garbage_of(load_document(document({"read_only": sample}), types), load_document(document({}), types)) == []
