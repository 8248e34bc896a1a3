"""https_redirect: the same host, path and query on https, and no other place."""

from pathlib import Path

import pytest

from fastgw import config
from fastgw.explain import as_text, explain
from fastgw.gateway.compiler import compile as compile_tables
from tests.support.certificates import Certificates
from tests.support.generations import load_document
from tests.support.memory import SERVICE, Plane

EXCEPTIONS = {"exceptions": ["/.well-known/acme-challenge/*", "/healthz"]}


def plane_of(settings: dict[str, object]) -> Plane:
    listener = {
        "address": "127.0.0.1:0",
        "trusted_proxies": ["10.0.0.0/8"],
        "filters": {"https_redirect": settings},
    }
    return Plane({"listeners": {"main": listener}})


def asked(plane: Plane, head: bytes, ip: str = "127.0.0.1") -> bytes:
    client = plane.client(ip)
    client.sends(head)
    return client.received


def location(answer: bytes) -> str:
    (line,) = (line for line in answer.split(b"\r\n") if line.startswith(b"Location: "))
    return line.removeprefix(b"Location: ").decode()


@pytest.mark.parametrize(
    ("target", "host", "to"),
    [
        (b"/", b"a.test", "https://a.test/"),
        (b"/a%2Fb/../c?x=1&y", b"A.Test:8080", "https://a.test/a%2Fb/../c?x=1&y"),
        (b"//evil.test/x", b"a.test", "https://a.test//evil.test/x"),
        (b"/?to=https://evil.test", b"a.test", "https://a.test/?to=https://evil.test"),
        (b"/?", b"a.test.", "https://a.test/?"),
        (b"/", b"[::1]:80", "https://[::1]/"),
        (b"http://a.test", b"a.test", "https://a.test/"),
        (b"http://a.test/x", b"a.test", "https://a.test/x"),
    ],
)
def test_the_same_place(target: bytes, host: bytes, to: str) -> None:
    answer = asked(plane_of({}), b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 308 ")
    assert location(answer) == to


def test_another_status_and_port() -> None:
    answer = asked(plane_of({"status": 301, "port": 8443}), b"GET /x HTTP/1.1\r\nHost: a.test:8080\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 301 ")
    assert location(answer) == "https://a.test:8443/x"


@pytest.mark.parametrize(
    "host", [b"a.test@evil.test", b"evil.test/x", b"a.test:x", b"a test", b"", b"a.test,evil.test"]
)
def test_no_host_leads_elsewhere(host: bytes) -> None:
    answer = asked(plane_of({}), b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Location" not in answer


def test_without_a_host_there_is_no_place() -> None:
    assert asked(plane_of({}), b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("host", "status"),
    [(b"a.test", 308), (b"x.b.test", 308), (b"x.y.b.test", 308), (b"b.test", 404), (b"xb.test", 404), (b"c.test", 404)],
)
def test_only_hosts_that_are_served(host: bytes, status: int) -> None:
    plane = plane_of({"hosts": ["A.test", "*.b.test"]})
    answer = asked(plane, b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize(
    ("path", "passes"),
    [
        (b"/.well-known/acme-challenge/token", True),
        (b"/.well-known/./acme-challenge/token", True),
        (b"/.well-known/acme-challenge", True),
        (b"/.well-known/acme-challengex", False),
        (b"/.well-known/acme-challenge/../secret", False),
        (b"/healthz", True),
        (b"/healthz/x", False),
    ],
)
def test_exceptions_are_served(path: bytes, passes: bool) -> None:
    plane = plane_of(EXCEPTIONS)
    answer = asked(plane, b"GET " + path + b" HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert bool(plane.pool.waiting) is passes
    assert answer.startswith(b"HTTP/1.1 308 ") is not passes


@pytest.mark.parametrize(("ip", "passes"), [("10.0.0.1", True), ("127.0.0.1", False)])
def test_who_came_by_https_is_served(ip: str, passes: bool) -> None:
    """As a trusted proxy tells."""
    plane = plane_of({})
    asked(plane, b"GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-Proto: https\r\n\r\n", ip)
    assert bool(plane.pool.waiting) is passes


def test_what_asks_for_no_place_is_left_alone() -> None:
    assert asked(plane_of({}), b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n").startswith(b"HTTP/1.1 405 ")
    plane = plane_of({})
    asked(plane, b"OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert len(plane.pool.waiting) == 1


def test_explain_knows_how_a_listener_is_spoken_to(tmp_path: Path) -> None:
    certificate, key = Certificates(tmp_path).issue("a.test")
    listeners = {
        "plain": {"address": "127.0.0.1:80"},
        "main": {"address": "127.0.0.1:443", "tls": {"certificates": [{"certificate": certificate, "key": key}]}},
    }
    document = {**SERVICE, "listeners": listeners, "filters": {"https_redirect": {}, "security_headers": {}}}
    gateway = compile_tables(load_document(document), 1)
    sent = explain(gateway, "GET", "http://a.test/x")
    assert (sent.status, sent.listener) == (308, "plain")
    passed = explain(gateway, "GET", "https://a.test/x")
    assert (passed.status, passed.listener) == (0, "main")
    assert "X-Forwarded-Proto: https" in passed.sends
    assert "https_redirect → pass (the request came by https)" in as_text(passed)


@pytest.mark.parametrize(
    "settings",
    [{"status": 200}, {"port": 0}, {"hosts": []}, {"hosts": ["a/b"]}, {"exceptions": ["/{x}"]}, {"exceptions": ["~."]}],
)
def test_wrong_settings(settings: dict[str, object]) -> None:
    with pytest.raises(config.ConfigError):
        load_document({**SERVICE, "filters": {"https_redirect": settings}})
