"""A gRPC server that rejects the gateway's token by the status of the call: it gets a newer one, as after a 401."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest

from tests.support.bookstore import api
from tests.support.gateway import wait_until
from tests.support.grpc_world import World
from tests.support.http2_peer import Fields, Http2Client, Http2Message, Http2Origin, Http2Peer
from tests.support.issuer import Issuer
from tests.support.rpc_calls import GRPC, OK_STATUS, call_http1, framed

CALL: Fields = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
UNARY = b"/test.Greeter/Unary"
REJECTED = pytest.mark.parametrize("status", [b"16", b"7"])


class Rejecting:
    """A gateway with a token, the server behind it and the issuer of its tokens."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack, **filters: Any) -> None:
        self.issuer = stack.enter_context(Issuer())
        self.origin = stack.enter_context(Http2Origin())
        oauth2 = {"token_url": self.issuer.url, "client_id": "a", "client_secret": "s"}
        credentials = {"oauth2": oauth2, "access_token_header": "Access-Token"}
        (directory / "api.pb").write_bytes(api())
        paths = (
            {"grpc": None, "paths": ["/*"], "methods": ["GET", "POST"]}
            if "grpc_transcode" in filters or "connect_rpc" in filters
            else {}
        )
        self.world = World(
            directory,
            stack,
            upstream={"targets": [{"url": self.origin.url}], "retries": {"body_bytes": "1KiB"}},
            route={**paths, "filters": {"credentials": credentials, **filters}},
        )
        self.client = stack.enter_context(Http2Client(self.world.gateway.address()))
        self._peer: Http2Peer | None = None

    def ask(self, body: bytes = framed(b"hello"), *more: tuple[bytes, bytes]) -> int:
        return self.client.ask([*CALL, *more], body, method=b"POST", path=UNARY)

    def received(self, token: str) -> Http2Message:
        """Return the next call of the gateway, which has this token."""
        self._peer = self._peer or self.origin.accept()
        call = self._peer.read_message()
        assert call.get(b"authorization") == token.encode()
        return call

    def rejects(self, token: str, status: bytes) -> Http2Message:
        """Answer the next call with a status alone."""
        call = self.received(token)
        assert self._peer is not None
        self._peer.headers(call.stream, [*GRPC, (b"grpc-status", status)], end=True)
        return call

    def accepts(self, token: str, status: Fields = OK_STATUS, message: bytes = framed(b"hi")) -> Http2Message:
        call = self.received(token)
        assert self._peer is not None
        self._peer.headers(call.stream, GRPC)
        self._peer.data(call.stream, message)
        self._peer.headers(call.stream, status, end=True)
        return call


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        yield lambda **filters: Rejecting(tmp_path, stack, **filters)


@REJECTED
def test_a_call_that_is_rejected_by_a_status_alone_is_sent_again_with_a_newer_token(make: Any, status: bytes) -> None:
    """The response is Trailers-Only, with HTTP status 200. The client gets the second response, and the next calls have
    the newer token.
    """
    world = make()
    stream = world.ask()
    assert world.rejects("Bearer token-1", status).body == framed(b"hello")
    assert world.accepts("Bearer token-2").body == framed(b"hello")
    response = world.client.read_message(stream)
    assert (response.body, [*response.trailers]) == (framed(b"hi"), OK_STATUS)
    stream = world.ask()
    world.accepts("Bearer token-2")
    assert world.client.read_message(stream).body == framed(b"hi")
    assert world.issuer.asked == 2


def test_a_second_rejection_is_forwarded(make: Any) -> None:
    world = make()
    stream = world.ask()
    world.rejects("Bearer token-1", b"16")
    world.rejects("Bearer token-2", b"16")
    response = world.client.read_message(stream)
    assert (response.status, response.get(b"grpc-status"), response.body) == (200, b"16", b"")
    record = world.world.gateway.wait_for_record(path=UNARY.decode())
    assert record["grpc_status"] == "UNAUTHENTICATED"


def test_other_statuses_say_nothing_about_the_token(make: Any) -> None:
    world = make()
    for status in (b"5", b"13", b"14"):
        stream = world.ask()
        world.rejects("Bearer token-1", status)
        assert world.client.read_message(stream).get(b"grpc-status") == status
    assert world.issuer.asked == 1


def test_a_rejection_after_a_message_is_forwarded_and_a_newer_token_is_fetched(make: Any) -> None:
    world = make()
    stream = world.ask()
    world.accepts("Bearer token-1", [(b"grpc-status", b"16")])
    response = world.client.read_message(stream)
    assert (response.body, [*response.trailers]) == (framed(b"hi"), [(b"grpc-status", b"16")])
    wait_until(lambda: world.issuer.asked == 2, "a newer token to be fetched")


def test_a_call_whose_body_is_not_kept_is_not_sent_again_and_a_newer_token_is_fetched(make: Any) -> None:
    world = make()
    stream = world.ask(framed(b"x" * 5000))
    world.rejects("Bearer token-1", b"16")
    assert world.client.read_message(stream).get(b"grpc-status") == b"16"
    wait_until(lambda: world.issuer.asked == 2, "a newer token to be fetched")


def test_a_rejected_token_of_the_client_is_its_own_matter(make: Any) -> None:
    world = make()
    stream = world.ask(framed(b"hello"), (b"access-token", b"Bearer of-ann"))
    world.rejects("Bearer of-ann", b"16")
    assert world.client.read_message(stream).get(b"grpc-status") == b"16"
    assert world.issuer.asked == 0


@pytest.mark.parametrize(
    ("filters", "kind", "sent", "got"),
    [
        ({"grpc_web": {}}, b"application/grpc-web+proto", framed(b"hello"), framed(b"hi")),
        ({"connect_rpc": {}}, b"application/proto", b"hello", b"hi"),
    ],
    ids=["grpc-web", "connect"],
)
def test_calls_of_other_protocols_are_sent_again_too(
    make: Any, filters: dict[str, Any], kind: bytes, sent: bytes, got: bytes
) -> None:
    world = make(**filters)
    with futures.ThreadPoolExecutor(1) as pool:
        calling = pool.submit(call_http1, world.world, sent, kind, b"Unary", (b"connect-protocol-version", b"1"))
        world.rejects("Bearer token-1", b"16")
        assert world.accepts("Bearer token-2").body == framed(b"hello")
        response = calling.result()
    assert response.status == 200
    assert response.body.startswith(got)


def test_a_transcoded_call_is_sent_again_too(make: Any, tmp_path: Path) -> None:
    world = make(grpc_transcode={"descriptors": str(tmp_path / "api.pb")})
    with world.world.gateway.connect() as client:
        client.send(b"GET /v1/shelves/7 HTTP/1.1\r\nHost: a.test\r\n\r\n")
        world.rejects("Bearer token-1", b"16")
        world.accepts("Bearer token-2", message=framed(b""))
        response = client.read_response()
    assert response.status == 200
    assert json.loads(response.body) is not None
