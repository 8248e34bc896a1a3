"""forward_auth and introspection, as far as they go without a service: what `check` refuses and what `explain` says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastgw.config.base.problems import ConfigError
from fastgw.gateway.compiler import compile as compile_tables
from fastgw.gateway.tables import CompileError
from tests.support.certificates import Certificates
from tests.support.generations import load_document
from tests.support.memory import SERVICE, Plane
from tests.support.secrecy import explained, reported
from tests.support.table import for_each

SECRET = "planted-client-secret"
FORWARD_AUTH = {"url": "https://auth.test/verify?tenant=a"}
INTROSPECTION = {"url": "https://as.test/introspect", "client_id": "gateway", "client_secret": SECRET}


def document(**filters: Any) -> dict[str, Any]:
    return {**SERVICE, "routes": [{"name": "all", "upstream": "u", "filters": filters}]}


def wrong_with(**filters: Any) -> str:
    with pytest.raises((ConfigError, CompileError)) as raised:
        compile_tables(load_document(document(**filters)), 1)
    return str(raised.value)


@for_each(
    ("settings", "wrong"),
    [
        ({"url": "auth.test"}, '"auth.test" is not an http, https or unix URL'),
        ({"url": "https://user:planted@auth.test/"}, "a URL that contains a user or password"),
        ({"url": "https://auth.test/#a"}, "a URL with a fragment, a space or a non-ASCII character"),
        ({"url": "http://auth.test/", "tls": {"verify": False}}, "`tls` is set, but the URL is not https"),
        ({"tls": {"certificate": __file__}}, "`tls` has a `certificate` but no `key`"),
        ({"copy_headers": ["Content-Length"]}, "`Content-Length` cannot be set by a filter; expected another header"),
        ({"copy_headers": ["X-Forwarded-For"]}, "`X-Forwarded-For` cannot be set by a filter; expected another header"),
        ({"copy_headers": ["x_forwarded_for"]}, "`x_forwarded_for` cannot be set by a filter; expected another header"),
        ({"copy_headers": ["X-User", "x_user"]}, "two values are sent in `x_user`"),
        ({"copy_headers": ["X User"]}, '"X User" is not a token'),
        (
            {"refusal_headers": ["Transfer-Encoding"]},
            ("`Transfer-Encoding` is a connection header, which is set by the gateway"),
        ),
        ({"cache": {"key_headers": []}}, "cache.key_headers: an empty list"),
        ({"cache": {}}, "cache.key_headers: missing"),
        ({"cache": {"key_headers": ["Cookie"], "ttl": "2h"}}, "cache.ttl: "),
        ({"timeout": 0}, "forward_auth.timeout: "),
    ],
)
def test_settings_of_forward_auth_that_make_no_sense_are_refused(settings: dict[str, Any], wrong: str) -> None:
    told = wrong_with(forward_auth={**FORWARD_AUTH, **settings})
    assert wrong in told
    assert "planted" not in told


@for_each(
    ("settings", "wrong"),
    [
        ({"client_secret": None}, "introspection.client_secret: "),
        ({"client_secret": {"env": "FASTGW_TEST_NOT_SET"}}, "FASTGW_TEST_NOT_SET is not set"),
        ({"client_auth": "mtls"}, "introspection.client_auth: "),
        ({"scopes": ["read write"]}, '"read write" is not a scope'),
        ({"required_claims": ["a..b"]}, '"a..b" is not a valid claim path'),
        ({"token_types": []}, "token_types: an empty list"),
        (
            {"claims_to_headers": {"sub": "Authorization"}},
            ("`Authorization` cannot be set by a filter; expected another header"),
        ),
        (
            {"claims_to_headers": {"sub": "X_Forwarded_For"}},
            ("`X_Forwarded_For` cannot be set by a filter; expected another header"),
        ),
        ({"claims_to_headers": {"sub": "x-user", "name": "X_User"}}, "two values are sent in `X_User`"),
        ({"max_pending": 0}, "introspection.max_pending: "),
        ({"cache": {"second_level": "planted"}}, "not a URL such as redis://"),
        ({"cache": {"ttl": "25h"}}, "cache.ttl: "),
        ({"realm": 'a"b'}, "introspection.realm: "),
    ],
)
def test_settings_of_introspection_that_make_no_sense_are_refused(settings: dict[str, Any], wrong: str) -> None:
    told = wrong_with(introspection={**INTROSPECTION, **settings})
    assert wrong in told
    assert "planted" not in told


def test_certificates_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Before anything is asked."""
    authority = Certificates(tmp_path)
    certificate, _ = authority.issue("a.test")
    _, key = authority.issue("b.test")
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("nothing")
    for tls in (
        {"certificate": certificate, "key": key},
        {"certificate": str(nothing), "key": key},
        {"certificate": certificate, "key": str(nothing)},
        {"ca": str(nothing)},
    ):
        for name, settings in (("forward_auth", FORWARD_AUTH), ("introspection", INTROSPECTION)):
            assert str(tmp_path) in wrong_with(**{name: {**settings, "tls": tls}})


def test_explain_asks_nobody() -> None:
    for filters in ({"forward_auth": FORWARD_AUTH}, {"introspection": INTROSPECTION}):
        plane = Plane(document(**filters))
        told = explained(plane.gateway, "http://a.test/", "Authorization: Bearer planted-token")
        assert "wait" in told or "ask" in told, told
        assert "planted" not in told


def test_a_refusal_shows_no_token() -> None:
    plane = Plane(document(introspection=INTROSPECTION))
    for lines in ("", "Authorization: Bearer planted token\r\n", "Authorization: Bearer planted,\r\n"):
        client = plane.client()
        client.sends(f"GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())
        assert client.received.startswith(b"HTTP/1.1 401 ")
        assert b"planted" not in client.received
    assert "planted" not in reported(plane.records, plane.gateway)
    told = explained(plane.gateway, "http://a.test/", "Authorization: Bearer planted token")
    assert "planted" not in told
    plane.assert_quiet()
