"""Valid cases: a server that rejects one is too strict. The upstream must receive the same message."""

from __future__ import annotations

from typing import Final

from tests.support.http2.case import SERVED, Case, unique
from tests.support.http2.client import Http2Client
from tests.support.http2.frames import (
    BEGINNING,
    block,
    data,
    get,
    headers,
    post,
    pseudo,
    settings,
    window_update,
)


def byte_by_byte(client: Http2Client) -> None:
    for byte in BEGINNING + post() + data(b"body"):
        client.send(bytes((byte,)))


def window_opened_late(client: Http2Client) -> None:
    """Check that no body bytes come before the window opens; the head does."""
    client.send(settings((4, 0)) + get())
    answer = client.answer(1)
    client.wait(lambda: answer.heads, "a head")
    client.synchronize()
    assert not answer.body
    assert not answer.over
    client.send(window_update(1, 1))
    client.wait(lambda: answer.body, "a byte")
    client.synchronize(b"the next")
    assert len(answer.body) == 1
    client.send(window_update(1000, 1))


def window_opened_by_settings(client: Http2Client) -> None:
    client.send(settings((4, 0)) + get())
    answer = client.answer(1)
    client.wait(lambda: answer.heads, "a head")
    client.send(settings((4, 10)))


def body_of_1_mib(client: Http2Client) -> None:
    client.send(post(path=b"/"))
    client.send_body(1, 1 << 20)


def asked(method: bytes, path: bytes = b"/", *fields: tuple[bytes, bytes]) -> bytes:
    return headers(block(*pseudo(method, path), *fields))


CONTROL_CASES: Final = unique(
    [
        Case("get", "9113 8", get(), SERVED, seen=(b"GET /", b"", {b"x-forwarded-host": b"a.test"})),
        Case("get-with-query", "9113 8.3.1", get(path=b"/?a=b&c=%20d"), SERVED, seen=(b"GET /?a=b&c=%20d", b"", {})),
        Case("head", "9110 9.3.2", asked(b"HEAD"), SERVED, seen=(b"HEAD /", b"", {})),
        Case("post-empty", "9110 8.6", post(end=True), SERVED, seen=(b"POST /", b"", {b"content-length": b"0"})),
        Case(
            "post",
            "9113 8.1",
            post() + data(b"body"),
            SERVED,
            seen=(b"POST /", b"body", {b"content-length": b"4"}),
        ),
        Case(
            "post-with-length",
            "9113 8.1.1",
            post((b"content-length", b"4")) + data(b"body"),
            SERVED,
            seen=(b"POST /", b"body", {b"content-length": b"4"}),
        ),
        Case(
            "post-in-pieces",
            "9113 8.1",
            post((b"content-length", b"4"))
            + data(b"b", end=False)
            + data(b"od", end=False)
            + data(b"y", end=False)
            + data(b""),
            SERVED,
            seen=(b"POST /", b"body", {b"content-length": b"4"}),
        ),
        Case(
            "post-with-length-0",
            "9113 8.1.1",
            post((b"content-length", b"0"), end=True),
            SERVED,
            seen=(b"POST /", b"", {b"content-length": b"0"}),
        ),
        Case(
            "post-with-trailers",
            "9113 8.1",
            post() + data(b"body", end=False) + headers(block((b"x-t", b"1"))),
            SERVED,
            seen=(b"POST /", b"body", {}),
        ),
        Case(
            "post-of-trailers-alone",
            "9113 8.1",
            post() + headers(block((b"x-t", b"1"))),
            SERVED,
            seen=(b"POST /", b"", {}),
        ),
        Case(
            "put",
            "9110 9.3.4",
            headers(block(*pseudo(b"PUT")), end=False) + data(b"x"),
            SERVED,
            seen=(b"PUT /", b"x", {}),
        ),
        Case("delete", "9110 9.3.5", asked(b"DELETE"), SERVED, seen=(b"DELETE /", b"", {})),
        Case(
            "patch",
            "5789 2",
            headers(block(*pseudo(b"PATCH")), end=False) + data(b"x"),
            SERVED,
            seen=(b"PATCH /", b"x", {}),
        ),
        Case("options", "9110 9.3.7", asked(b"OPTIONS"), SERVED, seen=(b"OPTIONS /", b"", {})),
        Case("method-of-its-own", "9110 9.1", asked(b"REPORT"), SERVED, seen=(b"REPORT /", b"", {})),
        Case("get-with-body", "9110 9.3.1", get(end=False) + data(b"x"), SERVED, seen=(b"GET /", b"x", {})),
        Case("te-trailers", "9113 8.2.2", get((b"te", b"trailers")), SERVED),
        Case(
            "cookies",
            "9113 8.2.3",
            get((b"cookie", b"a=1"), (b"x-a", b"1"), (b"cookie", b"b=2"), (b"cookie", b"c=3")),
            SERVED,
            seen=(b"GET /", b"", {b"cookie": b"a=1; b=2; c=3", b"x-a": b"1"}),
        ),
        Case(
            "host-and-authority",
            "9113 8.3.1",
            get((b"host", b"a.test")),
            SERVED,
            seen=(b"GET /", b"", {b"x-forwarded-host": b"a.test"}),
        ),
        Case(
            "host-alone",
            "9113 8.3.1",
            headers(block(*pseudo(authority=None), (b"host", b"a.test"))),
            SERVED,
            seen=(b"GET /", b"", {b"x-forwarded-host": b"a.test"}),
        ),
        Case("authority-with-port", "9113 8.3.1", headers(block(*pseudo(authority=b"a.test:8080"))), SERVED),
        Case("authority-ipv6", "9113 8.3.1", headers(block(*pseudo(authority=b"[::1]:8080"))), SERVED),
        Case("scheme-in-capitals", "3986 3.1", headers(block(*pseudo(scheme=b"HTTP"))), SERVED),
        Case("byte-by-byte", "9113 4", byte_by_byte, SERVED, preface=b"", seen=(b"POST /", b"body", {})),
        Case("window-opened-late", "9113 6.9", window_opened_late, SERVED),
        Case("window-opened-by-settings", "9113 6.9.2", window_opened_by_settings, SERVED),
        Case("body-of-1-mib", "9113 6.9", body_of_1_mib, SERVED, seen=(b"POST /", b"x" * (1 << 20), {})),
        Case("streams-of-one-write", "9113 5", b"".join(get(stream=n) for n in range(1, 41, 2)), SERVED, 39),
        Case("post-while-another-is-open", "9113 5", post() + get(stream=3), SERVED, 3),
    ]
)
