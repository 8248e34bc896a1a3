"""The gateway's own requests: sockets, servers that do what the test says, and what becomes of it."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastgw.config.base.value_types import Endpoint, parse_endpoint, parse_url
from fastgw.config.settings.gateway import UpstreamTls
from fastgw.errors import Fault
from fastgw.upstream.client.http_client import Fetcher, FetchFailed
from fastgw.upstream.targets.tls import read_tls
from tests.support.certificates import Certificates, server_tls
from tests.support.fetching import fetching
from tests.support.on_loop import on_loop, until
from tests.support.origin import Origin, OriginConnection, close, reset

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


async def failure(fetcher: Fetcher, url: str, **more: Any) -> FetchFailed:
    with pytest.raises(FetchFailed) as raised:
        await fetcher.fetch(url, **more)
    return raised.value


@pytest.mark.parametrize(
    ("text", "origin", "target"),
    [
        ("https://idp.example", "https://idp.example", "/"),
        ("HTTPS://IDP.example:443/a/?b=c&d=%20", "https://idp.example", "/a/?b=c&d=%20"),
        ("http://[::1]:8080?x", "http://[::1]:8080", "/?x"),
        ("http://a/../b//c", "http://a", "/../b//c"),
        ("unix:/run/idp.sock", "unix:/run/idp.sock", "/"),
        ("unix:/run/idp.sock:/keys?x", "unix:/run/idp.sock", "/keys?x"),
    ],
)
def test_an_endpoint_is_asked_for_as_it_is_written(text: str, origin: str, target: str) -> None:
    endpoint = parse_endpoint(text)
    assert (str(endpoint.origin), endpoint.target) == (origin, target)
    assert parse_endpoint(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "text", ["", "idp.example", "ftp://a/", "http://user:secret@a/", "http://a/#b", "http://a/ b", "http://a/\r\nX: y"]
)
def test_what_is_no_endpoint_is_refused_without_showing_a_password(text: str) -> None:
    with pytest.raises(ValueError, match=r"URL") as raised:
        parse_endpoint(text)
    assert "secret" not in str(raised.value)


@on_loop
async def test_a_request_is_sent_and_its_answer_given(origin: Origin) -> None:
    origin.answer(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nX-A: 1\r\nConnection: X-B\r\nX-B: 2\r\n\r\nnope")
    origin.serve()
    async with fetching() as fetcher:
        fetched = await fetcher.fetch(f"{origin.url}/keys?a=b", fields=[(b"Accept", b"application/json")])
    assert (fetched.status, fetched.body) == (404, b"nope")
    assert list(fetched.fields) == [(b"X-A", b"1")]
    (request,) = origin.requests
    assert request.head.raw == (
        b"GET /keys?a=b HTTP/1.1\r\nHost: %b\r\nAccept: application/json\r\nUser-Agent: fastgw\r\n\r\n"
        % origin.authority.encode()
    )


@on_loop
async def test_a_body_is_sent_with_its_length(origin: Origin) -> None:
    origin.serve()
    async with fetching() as fetcher:
        for body in (b"token=abc", b"", b"x" * 300_000):
            await fetcher.fetch(origin.url, method=b"POST", body=body)
    assert [(r.method, r.body) for r in origin.requests] == [
        (b"POST", b"token=abc"),
        (b"POST", b""),
        (b"POST", b"x" * 300_000),
    ]


@on_loop
async def test_connections_are_used_again(origin: Origin) -> None:
    origin.serve()
    async with fetching() as fetcher:
        for _ in range(5):
            assert (await fetcher.fetch(origin.url)).body == b"ok"
        assert len(origin.connections) == 1
        await asyncio.gather(*(fetcher.fetch(origin.url) for _ in range(20)))
        assert len(origin.requests) == 25
    assert len(origin.connections) <= 21


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\nX-Trailer: x\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK,
    ],
)
@on_loop
async def test_an_answer_may_come_in_any_form(origin: Origin, answer: bytes) -> None:
    origin.answer(answer)
    origin.serve()
    async with fetching() as fetcher:
        assert (await fetcher.fetch(origin.url)).body == b"ok"
        assert (await fetcher.fetch(origin.url)).body == b"ok"


@on_loop
async def test_an_answer_may_end_with_its_connection_and_come_byte_by_byte(origin: Origin) -> None:
    def slowly(connection: OriginConnection) -> None:
        for byte in b"HTTP/1.0 200 OK\r\n\r\nok":
            connection.send(bytes([byte]))

    origin.answer(slowly, close)
    origin.serve()
    async with fetching() as fetcher:
        assert (await fetcher.fetch(origin.url)).body == b"ok"


@on_loop
async def test_a_redirect_is_not_followed(origin: Origin) -> None:
    origin.answer(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", path=b"/")
    origin.serve()
    async with fetching() as fetcher:
        fetched = await fetcher.fetch(origin.url)
    assert (fetched.status, fetched.fields.get(b"location")) == (302, b"/elsewhere")
    assert len(origin.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + b"x" * 101,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"40\r\n" + b"x" * 64 + b"\r\n40\r\n" + b"x" * 64,
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 101,
    ],
)
@on_loop
async def test_an_answer_that_is_too_long_fails_and_is_not_read(origin: Origin, answer: bytes) -> None:
    origin.answer(answer)
    origin.serve()
    async with fetching() as fetcher:
        failed = await failure(fetcher, origin.url, most=100)
        assert failed.fault is Fault.UPSTREAM_MALFORMED
        assert "longer than 100 bytes" in failed.reason
        await until(lambda: origin.connections[0].sock.fileno() < 0)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ([b"SSH-2.0-OpenSSH\r\n"], Fault.UPSTREAM_MALFORMED),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"], Fault.UPSTREAM_MALFORMED),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", close], Fault.UPSTREAM_INCOMPLETE),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", close], Fault.UPSTREAM_INCOMPLETE),
        ([b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"], Fault.UPGRADE_UNEXPECTED),
        ([reset], Fault.CONNECTION_LOST),
        ([close], Fault.CONNECTION_LOST),
    ],
)
@on_loop
async def test_nonsense_is_a_fault_and_its_connection_goes(origin: Origin, answer: list[Any], fault: Fault) -> None:
    origin.answer(*answer)
    origin.serve()
    async with fetching() as fetcher:
        failed = await failure(fetcher, f"{origin.url}/secret-path?secret")
        assert failed.fault is fault
        assert origin.url in failed.reason
        assert "secret" not in failed.reason
        await until(lambda: origin.connections[0].sock.fileno() < 0)
    assert len(origin.requests) == 1


@on_loop
async def test_a_bad_answer_is_not_reused(origin: Origin) -> None:
    origin.answer(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", times=1)
    origin.serve()
    async with fetching() as fetcher:
        assert (await fetcher.fetch(origin.url)).body == b"ok"
        assert (await fetcher.fetch(origin.url)).body == b"ok"
    assert len(origin.connections) == 2


@pytest.mark.parametrize(
    ("method", "repeatable", "again"),
    [(b"GET", None, True), (b"POST", None, False), (b"POST", True, True), (b"GET", False, False)],
)
@on_loop
async def test_what_may_be_sent_again_is_when_a_used_connection_breaks(
    origin: Origin, method: bytes, repeatable: bool | None, again: bool
) -> None:
    origin.answer(close, path=b"/second", times=1)
    origin.serve()
    async with fetching() as fetcher:
        await fetcher.fetch(f"{origin.url}/first")
        if again:
            fetched = await fetcher.fetch(f"{origin.url}/second", method=method, repeatable=repeatable)
            assert fetched.body == b"ok"
        else:
            failed = await failure(fetcher, f"{origin.url}/second", method=method, repeatable=repeatable)
            assert failed.fault is Fault.CONNECTION_LOST
    assert len(origin.requests) == (3 if again else 2)


@on_loop
async def test_a_refused_connection_is_told() -> None:
    with Origin() as origin:
        origin.refuse_connections()
        async with fetching() as fetcher:
            assert (await failure(fetcher, origin.url)).fault is Fault.CONNECT_REFUSED


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (b"", Fault.UPSTREAM_TIMEOUT),
        (b"HTTP/1.1 200 OK\r\n", Fault.UPSTREAM_TIMEOUT),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", Fault.UPSTREAM_STALLED),
    ],
)
@on_loop
async def test_the_time_is_limited_whatever_was_said(origin: Origin, said: bytes, fault: Fault) -> None:
    """On a busy machine the service may not have got so far in a short time: then it is given more."""
    over = threading.Event()
    origin.answer(said, over)
    origin.serve()
    async with fetching() as fetcher:
        timeout = 0.05
        while (await failure(fetcher, origin.url, timeout=timeout)).fault is not fault:
            timeout *= 2
        over.set()
        await until(lambda: all(connection.sock.fileno() < 0 for connection in origin.connections))


@on_loop
async def test_who_is_cancelled_closes(origin: Origin) -> None:
    over = threading.Event()
    origin.answer(over)
    origin.serve()
    async with fetching() as fetcher:
        fetch = asyncio.create_task(fetcher.fetch(origin.url))
        await until(lambda: bool(origin.requests))
        fetch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetch
        over.set()
        await until(lambda: origin.connections[0].sock.fileno() < 0)


@pytest.mark.parametrize("turns", range(8))
@on_loop
async def test_whenever_a_fetch_is_cancelled_nothing_is_left(tmp_path: Any, turns: int) -> None:
    """`on_loop` counts the sockets."""
    authority = Certificates(tmp_path)
    with Origin(tls=server_tls(authority.issue("127.0.0.1"))).serve() as origin:
        async with fetching() as fetcher:
            fetch = asyncio.create_task(fetcher.fetch(origin.url, tls=UpstreamTls(ca=authority.ca)))
            for _ in range(turns):
                await asyncio.sleep(0)
            fetch.cancel()
            with pytest.raises((asyncio.CancelledError, FetchFailed)):
                await fetch


@on_loop
async def test_nothing_is_asked_once_it_is_stopped(origin: Origin) -> None:
    origin.serve()
    async with fetching() as fetcher:
        await fetcher.fetch(origin.url)
        fetcher.stop()
        assert (await failure(fetcher, origin.url)).fault is Fault.GATEWAY_STOPPED
        await until(lambda: origin.connections[0].sock.fileno() < 0)


@pytest.mark.parametrize("name", [b"Host", b"content-length", b"Transfer-Encoding", b"Connection", b"Upgrade", b"A b"])
@on_loop
async def test_framing_is_not_the_callers(origin: Origin, name: bytes) -> None:
    async with fetching() as fetcher:
        with pytest.raises(ValueError, match=r"header name|set by the gateway"):
            await fetcher.fetch(origin.url, fields=[(name, b"x")])
    origin.assert_untouched()


@on_loop
async def test_a_field_cannot_inject_another(origin: Origin) -> None:
    async with fetching() as fetcher:
        with pytest.raises(ValueError, match="control character"):
            await fetcher.fetch(origin.url, fields=[(b"X-A", b"1\r\nX-B: 2")])
    origin.assert_untouched()


@on_loop
async def test_a_unix_socket_is_asked_too(tmp_path: Any) -> None:
    with Origin(str(tmp_path / "a.sock")).serve() as origin:
        async with fetching() as fetcher:
            assert (await fetcher.fetch(f"{origin.url}:/x?y")).body == b"ok"
            assert (await fetcher.fetch(Endpoint(parse_url(origin.url), "/z"))).body == b"ok"
        assert [request.request_target for request in origin.requests] == [b"/x?y", b"/z"]


@on_loop
async def test_certificates_are_verified(tmp_path: Any) -> None:
    """By default against the system's authorities, which do not know ours."""
    authority = Certificates(tmp_path)
    with Origin(tls=server_tls(authority.issue("127.0.0.1"))).serve() as origin:
        async with fetching() as fetcher:
            assert (await failure(fetcher, origin.url)).fault is Fault.TLS_FAILED
            wrong_name = UpstreamTls(ca=authority.ca, server_name="other.test")
            assert (await failure(fetcher, origin.url, tls=wrong_name)).fault is Fault.TLS_FAILED
            missing = await failure(fetcher, origin.url, tls=UpstreamTls(ca=str(tmp_path / "missing.pem")))
            assert missing.fault is Fault.TLS_FAILED
            assert (await fetcher.fetch(origin.url, tls=UpstreamTls(ca=authority.ca))).body == b"ok"
            assert (await fetcher.fetch(origin.url, tls=UpstreamTls(verify=False))).body == b"ok"


@on_loop
async def test_a_client_certificate_is_shown_and_connections_of_two_identities_never_mix(tmp_path: Any) -> None:
    authority = Certificates(tmp_path)
    certificate, key = authority.issue("gateway.test")
    settings = UpstreamTls(ca=authority.ca, certificate=certificate, key=key)
    files = {name: Path(name).read_bytes() for name in (authority.ca, certificate, key)}
    tls = server_tls(authority.issue("127.0.0.1"), clients=authority.ca)
    with Origin(tls=tls).serve() as origin:
        async with fetching() as fetcher:
            assert (await fetcher.fetch(origin.url, tls=read_tls(settings, files.__getitem__))).body == b"ok"
            failed = await failure(fetcher, origin.url, tls=UpstreamTls(ca=authority.ca))
            assert failed.fault in (Fault.TLS_FAILED, Fault.CONNECTION_LOST)
            assert (await fetcher.fetch(origin.url, tls=settings)).body == b"ok"
        assert len(origin.connections) == 1, "equal contents are one identity"
