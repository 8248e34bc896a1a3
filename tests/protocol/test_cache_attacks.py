"""Attacks on caches: poisoning, deception, and denial of service by poisoning (CPDoS), through a running gateway.

Sources: PortSwigger's research on web cache poisoning, entanglement and deception; "Cached and Confused" (USENIX
Security 2020); "Your Cache Has Fallen" (CCS 2019). The origin is the worst that is common: it reflects whatever
changes the answer of some framework, marks it as fresh for all, and answers with an error what servers refuse.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Final

import pytest

from tests.support.client import Response
from tests.support.gateway import Gateway
from tests.support.threaded import Threaded

EVIL: Final = b"evil"
"""In every poison, and in no honest request."""
SECRET: Final = b"secret of ann"
UNKEYED: Final = (
    b"X-Forwarded-Host: evil.test",
    b"x-forwarded-host: evil.test",
    b"X_Forwarded_Host: evil.test",
    b"X-Forwarded-Server: evil.test",
    b"X-Forwarded-Scheme: evil",
    b"X-Forwarded-Prefix: /evil",
    b"X-Forwarded-Port: 666evil",
    b"X-Forwarded-SSL: evil",
    b"X-Host: evil.test",
    b"X-Original-Host: evil.test",
    b"X-Original-URL: /evil",
    b"X-Rewrite-URL: /evil",
    b"X-Url-Scheme: evil",
    b"X-HTTP-Host-Override: evil.test",
    b"X-HTTP-Method-Override: evil",
    b"X-HTTP-Method: evil",
    b"X-Method-Override: evil",
    b"X-Forwarded-Uri: /evil",
    b"X-Forwarded-Url: https://evil.test/",
    b"X-Forwarded-Path: /evil",
    b"X-Forwarded-Context: /evil",
    b"X-Forwarded-Method: evil",
    b"X-Script-Name: /evil",
    b"X-HTTP-Path-Override: /evil",
    b"X-Envoy-Original-Path: /evil",
    b"X-Method: evil",
    b"X-Matched-Path: /evil",
    b"x-invoke-status: evil",
    b"x-middleware-prefetch: evil",
    b"X-Middleware-Subrequest: evil",
    b"X-Middleware-Rewrite: /evil",
    b"X-Backend-Host: evil.test",
    b"x_backend_host: evil.test",
    b"X-Host-Override: evil.test",
    b"X-Proxy-Host: evil.test",
    b"Proxy-Host: evil.test",
    b"Base-Url: https://evil.test",
    b"X-Base-URL: https://evil.test",
    b"X-Proxy-Url: https://evil.test",
    b"Proxy-Url: https://evil.test",
    b"Http-Url: /evil",
    b"Request-Uri: /evil",
    b"Uri: /evil",
    b"Url: /evil",
    b"X-HTTP-DestinationURL: https://evil.test",
    b"X-Original-Uri: /evil",
    b"X-Original-Path: /evil",
    b"X-Original-Method: evil",
    b"X-Replaced-Path: /evil",
    b"Front-End-Https: evil",
    b"Forwarded: host=evil.test",
    b"Forwarded: for=1.2.3.4;host=evil.test;proto=evil",
    b"Content-Type: text/evil",
    b"Connection: X-Forwarded-Host\r\nX-Forwarded-Host: evil.test",
)
"""Headers that change what the upstream answers; in no key."""
REFLECTED: Final = sorted(
    {line.split(b":")[0].lower().replace(b"_", b"-").decode() for line in UNKEYED} - {"connection"} | {"x-lang"}
)
OVERRIDES: Final = ("x-http-method-override", "x-http-method", "x-method-override")
LAST_MODIFIED: Final = ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")
FRESH: Final = ("Cache-Control", "max-age=60")
ANSWERS: Final = {
    "fresh": [FRESH],
    "public": [("Cache-Control", "max-age=60, public")],
    "silent": [],
    "dated": [LAST_MODIFIED],
    "tagged": [("ETag", '"a"')],
    "private": [("Cache-Control", "private, max-age=60")],
    "private-field": [("Cache-Control", 'max-age=60, private="set-cookie"')],
    "no-store": [("Cache-Control", "max-age=60, no-store")],
    "cdn-no-store": [FRESH, ("CDN-Cache-Control", "no-store")],
    "no-cache": [("Cache-Control", "no-cache")],
    "expired": [("Expires", "0"), LAST_MODIFIED],
    "set-cookie": [FRESH, ("Set-Cookie", "session=ann")],
    "vary-cookie": [FRESH, ("Vary", "Cookie")],
    "vary-star": [FRESH, ("Vary", "Accept, *")],
    "vary-language": [FRESH, ("Vary", "Accept-Language")],
}
"""Headers of the origin's answers, by the first segment of the path."""


class Worst(BaseHTTPRequestHandler):
    """The origin."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one segment

    def log_message(self, *_: object) -> None: ...

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        body = self.rfile.read(length)
        kind = self.path.split("/")[1].partition(";")[0]
        fields = list(ANSWERS.get(kind, [FRESH]))
        status = 200
        if kind in ("short", "short-chunked"):
            self._break_off(kind)
            return
        if any(self.headers.get(name, "GET") not in ("GET", "get") for name in OVERRIDES):
            status, fields = 405, [LAST_MODIFIED]
        elif self.command not in ("GET", "HEAD"):
            status, fields = (404, [LAST_MODIFIED]) if self.command == "OPTIONS" else (200, [FRESH])
        elif any("\x07" in value or len(value) > 4096 for value in self.headers.values()):
            status, fields = 400, [LAST_MODIFIED]
        elif self.headers.get("If-Match", "*") != "*":
            status = 412
        elif self.headers.get("Expect"):
            status = 417
        elif self.headers.get("Range"):
            status, fields = (416, [FRESH]) if "evil" in self.headers["Range"] else (206, [FRESH])
            fields = [*fields, ("Content-Range", "bytes 0-3/100")]
        elif self.headers.get("If-None-Match"):
            status = 304
        elif self.headers.get("X-Forwarded-Scheme", "").startswith("http"):
            status, fields = 301, [FRESH, ("Location", "https://loop.test/")]
        seen = [self.command, self.path, self.headers.get("Accept-Language", ""), body.decode("latin-1")]
        seen += [f"{name}={self.headers[name]}" for name in REFLECTED if name in self.headers]
        identity = self.headers.get("Cookie") or self.headers.get("Authorization")
        text = (f"secret of {identity.split('=')[-1].split()[-1]} " if identity else "") + " ".join(seen)
        self._send(status, fields, text.encode("latin-1"))

    do_GET = do_HEAD = do_POST = do_PUT = do_OPTIONS = do_PURGE = handle_any

    def _send(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in fields:
            self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status != 304:
            self.wfile.write(body)

    def _break_off(self, kind: str) -> None:
        """Send a part of the first answer for a path; later ones are whole."""
        seen: set[str] = self.server.__dict__.setdefault("seen", set())
        if self.path in seen:
            self._send(200, [FRESH], b"whole")
            return
        seen.add(self.path)
        self.send_response(200)
        self.send_header(*FRESH)
        if kind == "short":
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"evil")
        else:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"4\r\nevil\r\n")
        self.close_connection = True


class Front:
    """The gateway in front of the origin. Every attack has a path of its own."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._numbers = itertools.count()

    @property
    def port(self) -> bytes:
        return b"%d" % self._gateway.port()

    def path(self, answer: str) -> bytes:
        return b"/%b/%d" % (answer.encode(), next(self._numbers))

    def ask(
        self, target: bytes, *fields: bytes, method: bytes = b"GET", body: bytes = b"", host: bytes = b"shop.test"
    ) -> Response:
        """Return the response to one request on a connection of its own."""
        lines = b"".join(field + b"\r\n" for field in fields)
        if body:
            lines += b"Content-Length: %d\r\n" % len(body)
        client = self._gateway.connect()
        try:
            client.send(b"%b %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (method, target, host, lines) + body)
            return client.read_response(method)
        finally:
            client.close()

    def try_broken(self, target: bytes) -> None:
        """Ask for something that is broken off."""
        client = self._gateway.connect()
        try:
            client.send(b"GET %b HTTP/1.1\r\nHost: shop.test\r\n\r\n" % target)
            client.read_to_end()
        finally:
            client.close()


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with Threaded(Worst, None) as origin:
        origin.begin()
        tracked = {"key": {"query": {"except": ["utm_*", "*_click", "a*b*c"]}}}
        config = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0", "reserved_headers": []}},
            "access_logs": [],
            "upstreams": {"origin": {"targets": [origin.origin]}},
            "consumers": [
                {"name": "ann", "key_auth": [{"key": "key-of-ann-which-is-long"}]},
                {"name": "bob", "key_auth": [{"key": "key-of-bob-which-is-long"}]},
            ],
            "routes": [
                {"name": "tracked", "hosts": ["tracked.test"], "upstream": "origin", "filters": {"cache": tracked}},
                {
                    "name": "members",
                    "hosts": ["members.test"],
                    "upstream": "origin",
                    "filters": {"key_auth": {"hide_credentials": True}, "cache": {}},
                },
                {
                    "name": "own",
                    "hosts": ["own.test"],
                    "upstream": "origin",
                    "filters": {"key_auth": {"hide_credentials": True}, "cache": {"vary_by": ["consumer"]}},
                },
                {
                    "name": "translated",
                    "hosts": ["translated.test"],
                    "upstream": "origin",
                    "filters": {
                        "headers": {"request": {"set": {"X-Lang": "{query.utm_lang}"}}},
                        "cache": {"key": {"query": {"except": ["utm_*"]}, "headers": ["X-Lang"]}},
                    },
                },
                {"name": "shop", "hosts": ["shop.test", "other.test"], "upstream": "origin", "filters": {"cache": {}}},
            ],
        }
        with Gateway(config, tmp_path_factory.mktemp("attacks")) as gateway:
            yield Front(gateway)


def is_hit(response: Response) -> bool:
    return b"fastgw; hit" in (response.get(b"Cache-Status") or b"")


def assert_honest(response: Response, path: bytes) -> None:
    """Assert that a response is what the origin answers to a request for this path that has nothing else to it."""
    found = (response.status, response.body.startswith(b"GET %b " % path), EVIL in response.body)
    assert found == (200, True, False), response.body


def test_the_origin_is_cached_and_reflects(front: Front) -> None:
    """The attacks would work: without protection each of them changes what the origin answers."""
    path = front.path("fresh")
    assert not is_hit(front.ask(path))
    assert is_hit(front.ask(path))
    assert EVIL in front.ask(front.path("fresh") + b"?evil").body


# poisoning: what the client chose must not be in the answer of others


@pytest.mark.parametrize("field", UNKEYED)
def test_a_header_that_is_not_in_the_key_changes_nothing_for_others(front: Front, field: bytes) -> None:
    path = front.path("fresh")
    front.ask(path, field)
    victim = front.ask(path)
    assert (victim.status, EVIL in victim.body) == (200, False)


def test_a_body_of_a_get_changes_nothing_for_others(front: Front) -> None:
    path = front.path("fresh")
    front.ask(path, b"Content-Type: application/x-www-form-urlencoded", body=b"id=evil")
    assert EVIL not in front.ask(path).body


@pytest.mark.parametrize(
    "query",
    [
        b"utm_source=evil",
        b"%75tm_source=evil",
        b"utm%5Fsource=evil",
        b"utm_source=1;id=evil",
        b"utm_source=1&utm_x=evil",
        b"&&utm_source=evil",
        b"utm_source[]=evil",
        b"utm_source=evil#",
        b"ad_click=evil",
        b"ad%5Fclick_click=evil",
        b"a1b2c=evil",
    ],
)
def test_a_parameter_that_is_not_in_the_key_does_not_reach_the_upstream(front: Front, query: bytes) -> None:
    path = front.path("fresh")
    poisoned = front.ask(b"%b?%b" % (path, query), host=b"tracked.test")
    assert poisoned.status == 400 or EVIL not in poisoned.body
    assert EVIL not in front.ask(path, host=b"tracked.test").body


def test_a_value_that_a_filter_sends_is_in_the_key_with_its_header(front: Front) -> None:
    """A filter writes a parameter that is not in the key into a header that is: `check` refuses it without."""
    path = front.path("fresh")
    for _ in range(3):
        assert EVIL in front.ask(path + b"?utm_lang=evil", host=b"translated.test").body
        assert_honest(front.ask(path, host=b"translated.test"), path)
        assert EVIL not in front.ask(path + b"?utm_lang=de", host=b"translated.test").body
    assert is_hit(front.ask(path + b"?utm_lang=evil", host=b"translated.test"))
    assert is_hit(front.ask(path, b"X-Lang: evil", host=b"translated.test"))


@pytest.mark.parametrize(
    "query",
    [
        b"id=evil;utm_source=1",
        b"UTM_source=evil",
        b"id=1&utm-source=evil",
        b"xutm_source=evil",
        b"%2575tm_a=evil",
        b"_clicks=evil",
    ],
)
def test_a_parameter_that_reaches_the_upstream_is_in_the_key(front: Front, query: bytes) -> None:
    path = front.path("fresh")
    front.ask(b"%b?%b" % (path, query), host=b"tracked.test")
    assert EVIL not in front.ask(path, host=b"tracked.test").body
    assert EVIL not in front.ask(path + b"?id=1", host=b"tracked.test").body


@pytest.mark.parametrize(
    ("host", "target"),
    [
        (b"shop.test:1337", b"$PATH"),
        (b"shop.test:80", b"$PATH"),
        (b"shop.test:$PORT", b"$PATH"),
        (b"other.test", b"$PATH"),
        (b"shop.test", b"http://other.test$PATH"),
        (b"shop.test", b"$PATH?"),
        (b"shop.test", b"$PATH/"),
        (b"shop.test", b"/$PATH"),
        (b"shop.test", b"$PATH;evil"),
        (b"shop.test", b"$PATH%2fevil"),
        (b"shop.test", b"$PATH%3fevil"),
        (b"shop.test", b"$PATH%23evil"),
    ],
)
def test_what_the_upstream_may_read_as_another_url_has_another_key(front: Front, host: bytes, target: bytes) -> None:
    path = front.path("fresh")
    front.ask(target.replace(b"$PATH", path), host=host.replace(b"$PORT", front.port))
    victim = front.ask(path)
    assert not is_hit(victim)
    assert EVIL not in victim.body


@pytest.mark.parametrize("target", [b"/fresh/./$N", b"/fresh/x/../$N", b"/fresh/%78/%2e%2e/$N", b"/%66resh/$N"])
def test_spellings_of_one_url_are_one_object_as_the_upstream_gets_one_path(front: Front, target: bytes) -> None:
    path = front.path("fresh")
    poisoned = front.ask(target.replace(b"$N", path.rpartition(b"/")[2]))
    victim = front.ask(path)
    assert is_hit(victim)
    assert poisoned.body == victim.body
    assert_honest(victim, path)


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        (b"HEAD", ()),
        (b"OPTIONS", ()),
        (b"POST", ()),
        (b"PUT", ()),
        (b"GET", (b"Range: bytes=0-3",)),
        (b"GET", (b"Range: evil=0-3",)),
        (b"GET", (b"Range: bytes=0-3", b'If-Range: "evil"')),
        (b"GET", (b'If-None-Match: "evil"',)),
        (b"GET", (b"If-None-Match: *",)),
        (b"GET", (b"If-Modified-Since: Sun, 06 Nov 2094 08:49:37 GMT",)),
        (b"GET", (b"Cache-Control: no-store",)),
        (b"GET", (b"Cache-Control: only-if-cached",)),
        (b"GET", (b"Cache-Control: no-cache, max-age=0",)),
    ],
)
def test_an_answer_to_another_question_is_not_the_answer_for_others(
    front: Front, method: bytes, fields: tuple[bytes, ...]
) -> None:
    path = front.path("fresh")
    front.ask(path, *fields, method=method)
    victim = front.ask(path)
    assert_honest(victim, path)


def test_variants_are_kept_apart(front: Front) -> None:
    path = front.path("vary-language")
    front.ask(path, b"Accept-Language: evil")
    assert EVIL not in front.ask(path).body
    assert EVIL not in front.ask(path, b"Accept-Language: en").body
    star = front.path("vary-star")
    front.ask(star, b"Accept-Language: evil")
    assert EVIL not in front.ask(star).body


@pytest.mark.parametrize("answer", ["short", "short-chunked"])
def test_what_was_broken_off_is_not_stored(front: Front, answer: str) -> None:
    path = front.path(answer)
    front.try_broken(path)
    victim = front.ask(path)
    assert (victim.status, victim.body) == (200, b"whole")


# deception: what somebody got because of who it is must not be the answer for others

PERSONAL: Final = (
    *("silent", "dated", "tagged", "private", "private-field", "no-store", "cdn-no-store", "no-cache", "expired"),
    *("set-cookie", "vary-cookie", "vary-star"),
)
SUFFIXES: Final = (
    *(b"", b"/evil.css", b";evil.js", b"%2fevil.css", b"%3bevil.js", b".css", b"?evil.css", b"%3fevil.css"),
    *(b"/x.avif", b"%0aevil.css", b"%09.css", b"%5cevil.css", b"%252fevil.css", b"%253bevil.css"),
)


@pytest.mark.parametrize("answer", PERSONAL)
def test_a_personal_page_is_not_stored_whatever_its_suffix(front: Front, answer: str) -> None:
    path = front.path(answer)
    for suffix in SUFFIXES:
        first = front.ask(path + suffix, b"Cookie: session=ann")
        assert SECRET in first.body, suffix
        assert SECRET not in front.ask(path + suffix).body, suffix
        assert SECRET not in front.ask(path + suffix, b"Cookie: session=bob").body, suffix


@pytest.mark.parametrize(
    "suffix", [b"%00.css", b"%0d%0a.css", b"/..%5cevil.css", b"/..;/evil.css", b"/%2e%2e%2fevil.css"]
)
def test_paths_that_servers_read_differently_are_refused(front: Front, suffix: bytes) -> None:
    assert front.ask(front.path("fresh") + suffix, b"Cookie: session=ann").status == 400


@pytest.mark.parametrize("answer", ["fresh", "silent", "dated", "private", "no-store", "set-cookie"])
def test_the_answer_to_credentials_is_not_stored(front: Front, answer: str) -> None:
    path = front.path(answer)
    assert SECRET in front.ask(path, b"Authorization: Bearer ann").body
    assert SECRET not in front.ask(path).body
    assert SECRET not in front.ask(path, b"Authorization: Bearer bob").body


def test_the_answer_to_a_consumer_is_stored_for_others_only_if_it_says_so(front: Front) -> None:
    ann, bob = b"X-API-Key: key-of-ann-which-is-long", b"X-API-Key: key-of-bob-which-is-long"
    path, shared = front.path("fresh"), front.path("public")
    for target, hit in ((path, False), (shared, True)):
        front.ask(target, ann, host=b"members.test")
        assert is_hit(front.ask(target, bob, host=b"members.test")) is hit
    assert front.ask(shared, host=b"members.test").status == 401  # stored, and still not for everybody
    own = front.path("fresh")
    assert not is_hit(front.ask(own, ann, host=b"own.test"))
    assert not is_hit(front.ask(own, bob, host=b"own.test"))
    assert is_hit(front.ask(own, ann, host=b"own.test"))


# denial of service: an error that one client causes must not be the answer for others

CAUSES = [
    (b"GET", b"X-Large: " + b"a" * 6000),
    (b"GET", b"X-HTTP-Method-Override: POST"),
    (b"GET", b"X-HTTP-Method: DELETE"),
    (b"GET", b"X-Method-Override: PUT"),
    (b"GET", b"X-Forwarded-Scheme: http"),
    (b"GET", b"If-Match: evil"),
    (b"GET", b"If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT"),
    (b"GET", b"Range: bytes=evil"),
    (b"GET", b"Range: bytes=1000000-"),
    (b"GET", b"Range: bytes=" + b",".join(b"%d-" % n for n in range(200))),
    (b"GET", b"Max-Forwards: 0"),
    (b"GET", b"Connection: host, cache-control, x-large"),
    (b"GET", b"X-Meta: \x07"),
    (b"GET", b"Transfer-Encoding: evil"),
    (b"GET", b"Content-Length: 1, 2"),
    (b"GET", b"Expect: evil"),
    (b"OPTIONS", b"Max-Forwards: 5"),
    (b"get", b"A: b"),
    (b"PURGE", b"A: b"),
    (b"TRACE", b"A: b"),
]


@pytest.mark.parametrize(("method", "field"), CAUSES, ids=lambda value: value[:40].decode("latin-1"))
def test_an_error_that_one_client_causes_is_not_stored(front: Front, method: bytes, field: bytes) -> None:
    path = front.path("fresh")
    front.ask(path, field, method=method)
    victim = front.ask(path)
    assert_honest(victim, path)


def test_a_stranger_cannot_purge(front: Front) -> None:
    path = front.path("fresh")
    front.ask(path)
    front.ask(path, method=b"PURGE")
    assert front.ask(path).status == 200
