"""Requests that wait for a look at the disk are answered, whatever comes of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fastgw.exchange import Exchange
from fastgw.files.action import FilesAction
from fastgw.files.resources import FileFinder
from tests.support.memory import Plane, Wire

GET = b"GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n"
REFUSED = b"HTTP/1.1 500 Internal Server Error\r\n"


def serving(root: Path) -> Plane:
    (root / "a").write_text("content")
    return Plane({"routes": [{"name": "all", "files": {"root": str(root)}}]})


async def answers(plane: Plane, *clients: Wire) -> list[bytes]:
    """Let the clients ask for the same file, and return the responses."""
    before = [len(client.received) for client in clients]
    for client in clients:
        client.sends(GET)
    async with asyncio.timeout(10):
        while any(len(client.received) == known for client, known in zip(clients, before, strict=True)):
            await asyncio.sleep(0)
            plane.settle()
    return [client.received[known:] for client, known in zip(clients, before, strict=True)]


def test_a_lookup_that_raises_is_answered_and_the_next_request_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All that wait for it get the gateway's fault, and the log has one message."""

    def find(*_: object) -> None:
        raise ValueError("a date without a form")

    async def run() -> None:
        plane = serving(tmp_path)
        clients = [plane.client() for _ in range(3)]
        with monkeypatch.context() as patched:
            patched.setattr(FileFinder, "find", find)
            refused = await answers(plane, *clients)
        assert [each.startswith(REFUSED) for each in refused] == [True, True, True]
        (told,) = (each for each in caplog.records if each.exc_info)
        assert "a date without a form" in str(told.exc_info)
        assert {(each.fault, each.fault_detail) for each in plane.records} == {
            ("internal", "looking for the file raised ValueError")
        }
        (again,) = await answers(plane, clients[0])
        assert again.endswith(b"\r\n\r\ncontent")

    asyncio.run(run())


def test_an_answer_that_raises_leaves_no_other_request_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    replied = FilesAction._reply

    async def run() -> None:
        plane = serving(tmp_path)
        clients = [plane.client() for _ in range(2)]
        exchanges: list[Exchange] = []

        def reply(self: FilesAction, exchange: Exchange, found: object) -> object:
            exchanges.append(exchange)
            if len(exchanges) == 1:
                raise ValueError("of this exchange")
            return replied(self, exchange, found)  # type: ignore[arg-type]  # what `find` returned

        monkeypatch.setattr(FilesAction, "_reply", reply)
        first, second = await answers(plane, *clients)
        assert first.startswith(REFUSED)
        assert second.endswith(b"\r\n\r\ncontent")
        assert "of this exchange" in caplog.text

    asyncio.run(run())
