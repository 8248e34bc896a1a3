"""Requests that the filter `credentials` signs for AWS, verified with botocore."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any

import pytest

from fastgw.config import ConfigError
from fastgw.exchange import Exchange
from fastgw.filters.policies.credentials.aws_signing import _Signing
from fastgw.upstream.forwarding.forward_action import Forward
from tests.support.aws import ACCESS_KEY, SECRET_KEY, check_signature
from tests.support.memory import Plane
from tests.unit.filters.policies.cache.test_hits import FRESH
from tests.unit.filters.policies.cache.world import World

KEYS = {
    "region": "eu-central-1",
    "service": "execute-api",
    "access_key_id": ACCESS_KEY,
    "secret_access_key": SECRET_KEY,
}
OWN = b"Authorization: Bearer own\r\nX-Amz-Date: 1\r\nX_Amz_Security_Token: x\r\nX-Amz-Security-Token: y\r\n"


def plane(route: dict[str, Any] | None = None, target: str = "http://api.test:81/base", **aws: Any) -> Plane:
    filters = {"credentials": {"aws_sigv4": {**KEYS, **aws}}}
    upstream = {"targets": [target] if isinstance(target, str) else target, "filters": filters}
    return Plane({"upstreams": {"u": upstream}, "routes": [{"name": "r", "upstream": "u", **(route or {})}]})


def sent(made: Plane, request: bytes) -> bytes:
    made.client().sends(request)
    return made.connects().received


@pytest.mark.parametrize(
    ("target", "route"),
    [
        (b"/", {}),
        (b"/a/b?x=1&a=2", {}),
        (b"/a%20b/%C3%A4/%2B?q=a+b&e=%7e%2f&&none", {}),
        (b"/old/x?y", {"paths": ["/old/*"], "strip_prefix": "/old"}),
        (b"/old/7", {"paths": ["/old/{id}"], "rewrite": "/new/{id}/z"}),
    ],
)
def test_what_is_sent_is_signed(target: bytes, route: dict[str, Any]) -> None:
    raw = sent(plane(route), b"GET %b HTTP/1.1\r\nHost: a.test\r\n%b\r\n" % (target, OWN))
    assert check_signature(raw) == ("eu-central-1", "execute-api")
    assert raw.partition(b" ")[2].startswith(b"/base")
    assert b"own" not in raw
    assert raw.lower().count(b"x-amz-date:") == 1
    assert b"Token" not in raw


def test_parameters_that_are_added_are_signed() -> None:
    parameters = {"request_parameters": {"query": {"z": "1 2", "a": "3"}, "headers": {"X-Amz-Date": "of-parameters"}}}
    raw = sent(plane({"filters": parameters}), b"GET /x?b=2&a=1 HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert raw.split(b" ")[1] == b"/base/x?b=2&a=1&z=1%202"
    assert check_signature(raw)


AMZ = (
    b"X-Amz-Meta-B:  two   words\t \r\nx-amz-acl: public-read\r\nX-AMZ-Meta-A: 2\r\nX-Amz-Content-SHA256: zz\r\n"
    b"x-amz-meta-a: 1\r\nX-Amz-Gone: x\r\nX-Amz-Hop: y\r\nConnection: x-amz-hop\r\nX-Amz-Meta-Empty:\r\n"
    b"Content-MD5: XUFAKrxLKna5cZ2REBfFkg==\r\n"
)
CHANGES = {
    "request": {
        "set": {"X-Amz-Meta-Set": "{path}", "X-Amz-Storage-Class": "GLACIER", "X-Amz-Acl": "private"},
        "remove": ["X-Amz-Gone"],
        "add": {"X-Amz-Meta-A": "3", "X-Amz-Tagging": "a=b"},
    }
}


@pytest.mark.parametrize("service", ["s3", "execute-api"])
@pytest.mark.parametrize("filters", [{}, {"headers": CHANGES}])
def test_headers_of_aws_are_signed_as_they_are_sent(service: str, filters: dict[str, Any]) -> None:
    """Some come from filters, some are dropped. S3 answers 403 for those that are not signed: commands of clients, also
    where a filter has written another value.
    """
    made = plane({"filters": filters}, service=service, session_token="tok")
    raw = sent(made, b"PUT /k HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n%b\r\nhello" % (OWN + AMZ))
    assert check_signature(raw, "tok") == ("eu-central-1", service)
    (names,) = re.findall(rb"SignedHeaders=([^,]*)", raw)
    expected = {b"content-md5", b"x-amz-meta-a", b"x-amz-meta-b", b"x-amz-meta-empty"}
    if filters:
        expected |= {b"x-amz-meta-set", b"x-amz-storage-class", b"x-amz-tagging"}
    if service != "s3":
        expected |= {b"x-amz-acl"} if filters else {b"x-amz-acl", b"x-amz-gone"}
    own = {b"host", b"x-amz-content-sha256", b"x-amz-date", b"x-amz-security-token"}
    assert names.split(b";") == sorted(expected | own)


@pytest.mark.parametrize(
    ("rule", "target"), [("all", b"/x?b=2&a=1"), ({"except": ["b"]}, b"/x?a=1"), ("none", b"/x")], ids=str
)
def test_the_fetch_of_a_cache_is_signed(rule: Any, target: bytes) -> None:
    """It has the query of the stored response, not that of the client."""
    route = {"filters": {"credentials": {"aws_sigv4": KEYS}}}
    world = World(upstreams={"u": {"targets": ["http://api.test"]}}, route=route, key={"query": rule})
    client = world.client(b"/x?b=2&a=1")
    upstream = world.upstream()
    assert upstream.received.startswith(b"GET %b " % target)
    assert check_signature(upstream.received)
    upstream.sends(FRESH)
    assert client.received.startswith(b"HTTP/1.1 200 ")


def test_a_fallback_gets_no_signature() -> None:
    upstreams = {name: {"targets": [f"http://{name}.test"], "retries": {"max": 0}} for name in "uv"}
    filters = {"credentials": {"aws_sigv4": KEYS}}
    route = {"name": "r", "upstream": "u", "fallback": {"upstream": "v"}, "filters": filters}
    made = Plane({"upstreams": upstreams, "routes": [route]})
    made.client().sends(b"GET /?b&a HTTP/1.1\r\nHost: a\r\n\r\n")
    made.cannot_connect()
    raw = made.connects().received
    assert raw.startswith(b"GET /?b&a ")
    assert b"mz" not in raw
    assert b"AWS4" not in raw


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE"])
def test_a_body_is_signed(method: bytes) -> None:
    made = plane(session_token="tok")
    client = made.client()
    client.sends(b"%b /a HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc" % method)
    assert not made.pool.waiting
    client.sends(b"def")
    assert check_signature(made.connects().received, "tok")
    long = plane(body_bytes=5).client()
    long.sends(b"%b /a HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabcdef" % method)
    assert long.received.startswith(b"HTTP/1.1 413")


def test_trailers_do_not_leave_a_body_unsigned() -> None:
    made = plane()
    made.client().sends(
        b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
    )
    assert sha256(b"abc").hexdigest().encode() in made.connects().received


def test_a_body_may_be_unsigned() -> None:
    made = plane(service="s3", sign_body=False)
    made.client().sends(b"PUT /k HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
    assert check_signature(made.connects().received)


def test_a_body_that_is_not_kept_is_not_sent_unsigned(monkeypatch: pytest.MonkeyPatch) -> None:
    """With another digest than that of the body, services would accept any body."""
    sign = _Signing.sign

    def sign_without(self: _Signing, exchange: Exchange, forward: Forward) -> bool:
        assert exchange.request_body is not None
        exchange.request_body.keep_no_more()
        return sign(self, exchange, forward)

    monkeypatch.setattr(_Signing, "sign", sign_without)
    made = plane()
    client = made.client()
    client.sends(b"PUT /k HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabcdef")
    assert client.received.startswith(b"HTTP/1.1 500 ")
    assert not made.pool.waiting


def test_targets_have_one_host() -> None:
    made = plane(target=["https://a.test", "https://b.test"])  # type: ignore[arg-type]
    client = made.client()
    client.sends(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.received.startswith(b"HTTP/1.1 500")


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        ({"bearer": "x"}, "together"),
        ({"csrf": {"token_url": "http://a/b"}}, "mutually exclusive"),
    ],
)
def test_settings_that_do_not_go_together(more: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        Plane({"filters": {"credentials": {"aws_sigv4": KEYS, **more}}})


def test_egress_has_it_too() -> None:
    service = {"url": "http://api.test", "credentials": {"type": "aws_sigv4", "aws": KEYS}}
    made = Plane({"egress": {"apps": {"shop": {"api": service}}}, "routes": []})
    raw = sent(made, b"GET /shop/api/x?a=1 HTTP/1.1\r\nHost: a\r\nX-Access-Token: own\r\n\r\n")
    assert raw.startswith(b"GET /x?a=1 ")
    assert check_signature(raw)
