"""The coordinator where refresh tokens are redeemed: once for all who ask, and for nobody who does not know its key."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
import uvloop

from fastgw.config.settings.gateway import UpstreamTls
from fastgw.filters.policies.oidc.refresh_coordinator import (
    CoordinatorUnavailable,
    RefreshAnswer,
    RefreshCoordinator,
    RefreshRequest,
    SessionPlace,
    request_refresh,
)
from fastgw.upstream.targets.tls import read_tls
from tests.support.fetching import fetching
from tests.support.liar import Liar


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[RefreshCoordinator, Liar]]:
    with Liar() as liar:
        liar.says["/token"] = 200, b"tokens"
        async with (
            fetching() as fetcher,
            RefreshCoordinator(fetcher, read_tls(UpstreamTls(), lambda path: b"")) as coordinator,
        ):
            yield coordinator, liar


def question(coordinator: RefreshCoordinator, liar: Liar, mark: bytes = b"m", key: str = "") -> RefreshRequest:
    return RefreshRequest(key or coordinator.place.key, mark, f"{liar.url}/token", [(b"X-A", b"b")], b"refresh_token=r")


def on_both_loops(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]  # it is a coroutine
    uvloop.run(test())  # type: ignore[arg-type]


def test_questions_with_one_mark_are_one() -> None:
    async def test() -> None:
        async with opened() as (coordinator, liar):
            together = await asyncio.gather(
                *(request_refresh(coordinator.place, question(coordinator, liar)) for _ in range(20))
            )
            assert together == [RefreshAnswer(200, b"tokens")] * 20
            used = b'{"error": "invalid_grant"}'
            liar.says["/token"] = 400, used
            assert await request_refresh(coordinator.place, question(coordinator, liar)) == RefreshAnswer(
                200, b"tokens"
            )
            assert len(liar.asked) == 1
            assert await request_refresh(coordinator.place, question(coordinator, liar, b"another")) == RefreshAnswer(
                400, used
            )
            liar.says["/token"] = 200, b"tokens"
            assert await request_refresh(coordinator.place, question(coordinator, liar, b"another")) == RefreshAnswer(
                400, used
            )
            assert [form for _, form in liar.asked] == [{"refresh_token": "r"}] * 2

    on_both_loops(test)


def test_what_had_no_answer_is_asked_again() -> None:
    async def test() -> None:
        async with opened() as (coordinator, liar):
            nowhere = RefreshRequest(coordinator.place.key, b"m", "http://127.0.0.1:1/token", [], b"")
            failed = await request_refresh(coordinator.place, nowhere)
            assert (failed.status, failed.body) == (0, b"")
            assert "127.0.0.1:1" in failed.reason
            assert await request_refresh(coordinator.place, question(coordinator, liar)) == RefreshAnswer(
                200, b"tokens"
            )

    on_both_loops(test)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, b""),
        (500, b'{"error": "invalid_grant"}'),
        (429, b'{"error": "slow_down"}'),
        (400, b'{"error": "invalid_client"}'),
        (400, b"not JSON"),
        (302, b""),
    ],
)
def test_a_provider_in_trouble_is_asked_again(status: int, body: bytes) -> None:
    """The refresh token is still good: such an answer is for those alone that have waited for it."""

    async def test() -> None:
        async with opened() as (coordinator, liar):
            liar.says["/token"] = status, body
            assert await request_refresh(coordinator.place, question(coordinator, liar)) == RefreshAnswer(status, body)
            liar.says["/token"] = 200, b"tokens"
            assert await request_refresh(coordinator.place, question(coordinator, liar)) == RefreshAnswer(
                200, b"tokens"
            )

    on_both_loops(test)


def test_who_has_left_does_not_take_the_answer_along() -> None:
    """What a provider gives for a refresh token, it gives once."""

    async def test() -> None:
        async with opened() as (coordinator, liar):
            leaving = asyncio.create_task(request_refresh(coordinator.place, question(coordinator, liar)))
            while not liar.asked:
                await asyncio.sleep(0.001)
            leaving.cancel()
            assert await request_refresh(coordinator.place, question(coordinator, liar)) == RefreshAnswer(
                200, b"tokens"
            )
            assert len(liar.asked) == 1

    on_both_loops(test)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\0",
        b"\xff\xff\xff\xff" + b"x" * 100,
        b"\0\0\0\4" + b"\xc1" * 4,
        b"\0\0\0\1\x90",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_nonsense_is_not_answered(sent: bytes) -> None:
    async def test() -> None:
        async with opened() as (coordinator, liar):
            reader, writer = await asyncio.open_unix_connection(sock=connected(coordinator.place))
            writer.write(sent)
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
            assert await request_refresh(coordinator.place, question(coordinator, liar)) == RefreshAnswer(
                200, b"tokens"
            )

    on_both_loops(test)


def test_nobody_is_answered_without_the_key() -> None:
    async def test() -> None:
        async with opened() as (coordinator, liar):
            for key in ("0" * 64, "ä", coordinator.place.key[:-1]):
                refused = await request_refresh(coordinator.place, question(coordinator, liar, key=key))
                assert (refused.status, refused.body) == (0, b"")
            assert liar.asked == []

    on_both_loops(test)


def test_where_there_is_no_coordinator_nothing_is_asked() -> None:
    async def test() -> None:
        async with opened() as (coordinator, liar):
            place, asked = coordinator.place, question(coordinator, liar)
        with pytest.raises(CoordinatorUnavailable):
            await request_refresh(place, asked)
        with pytest.raises(CoordinatorUnavailable):
            await request_refresh(SessionPlace("never-there", "k"), asked)

    on_both_loops(test)


def test_a_question_of_another_version_is_not_answered() -> None:
    async def test() -> None:
        async with opened() as (coordinator, liar):
            reader, writer = await asyncio.open_unix_connection(sock=connected(coordinator.place))
            raw = msgspec.msgpack.encode({"key": coordinator.place.key, "url": liar.url})
            writer.write(len(raw).to_bytes(4, "big") + raw)
            assert await reader.read() == b""
            writer.close()

    on_both_loops(test)


def connected(place: SessionPlace) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.connect(f"\0{place.name}")
    made.setblocking(False)
    return made
