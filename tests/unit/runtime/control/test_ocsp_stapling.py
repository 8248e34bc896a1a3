"""OCSP responses in the control process: when a responder is asked, and what is stapled meanwhile."""

from __future__ import annotations

import asyncio
import datetime
import errno
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography.x509 import ocsp

from fastgw.admin.node_interface import OcspInfo
from fastgw.errors import Fault
from fastgw.net.ocsp import Subject, subject_in
from fastgw.operator_events import OperatorEvent
from fastgw.runtime.control import ocsp_stapling
from fastgw.runtime.control.ocsp_stapling import OcspStapling
from fastgw.runtime.node import ocsp_storage
from fastgw.runtime.node.ocsp_storage import FORGOTTEN_S, remove_old, write_response
from fastgw.sync.ocsp_responses import FEED, written
from fastgw.upstream.client.http_client import FetchFailed
from tests.support.ocsp import DAY, OcspAuthority

DEADLINE_S = 30.0


class World:
    """The control process with a certificate, and the responder of its authority. `answer`: the body of its answers;
    None: it is unreachable.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.authority = folder, OcspAuthority(folder)
        self.file, _ = self.authority.issue("a.test")
        self.content = Path(self.file).read_bytes()
        subject = subject_in(self.content)
        assert isinstance(subject, Subject)
        self.subject = subject
        self.answer: bytes | None = self.authority.answer(self.content)
        self.status = 200
        self.asked: list[dict[str, Any]] = []
        self.notices: list[tuple[OperatorEvent, str]] = []
        monkeypatch.setenv("STATE_DIRECTORY", str(folder / "state"))
        monkeypatch.setattr(ocsp_stapling, "notice", lambda event, text: self.notices.append((event, text)))

    def begin(self, feed: bytes = b"") -> OcspStapling:
        node: Any = SimpleNamespace(feeds={FEED: feed}, sealed=SimpleNamespace(generation=1))
        self.stapling = OcspStapling(node, cast(Any, None), cast(Any, SimpleNamespace(fetch=self._fetch)))
        cast(Any, self.stapling)._feed = SimpleNamespace(publish=lambda: None)
        tls = SimpleNamespace(ocsp_stapling=True, certificates=[SimpleNamespace(certificate_file=self.file)])
        settings = SimpleNamespace(listeners={"main": SimpleNamespace(tls=tls)}, acme=None)
        self.stapling.use_configuration(
            cast(Any, SimpleNamespace(settings=settings, captured={self.file: self.content}))
        )
        return self.stapling

    async def _fetch(self, url: str, **options: Any) -> Any:
        self.asked.append({"url": url, **options})
        if self.answer is None:
            raise FetchFailed(Fault.CONNECT_REFUSED, "http://127.0.0.1:9: connect_refused")
        return SimpleNamespace(status=self.status, body=self.answer)

    @property
    def info(self) -> OcspInfo:
        (found,) = self.stapling.infos()
        return found

    @property
    def is_stapled(self) -> bool:
        return self.subject.digest in ocsp_stapling.read(self.stapling._value())

    async def until(self, fact: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not fact():
                await asyncio.sleep(0.005)

    async def ask_again(self) -> None:
        """Let the next attempt be due now."""
        count = len(self.asked)
        (running,) = self.stapling._running.values()
        running._task.cancel()
        running._due_date = 0.0
        running._task = asyncio.create_task(running._fetch(self.subject))
        await running._task
        assert len(self.asked) == count + 1


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_a_response_is_fetched_stapled_stored_and_renewed_at_half_of_the_time_left(world: World) -> None:
    async def play() -> None:
        world.begin()
        await world.until(lambda: world.is_stapled)
        asked = world.asked[0]
        assert (asked["url"], asked["method"]) == (world.subject.responder, b"POST")
        request = ocsp.load_der_ocsp_request(asked["body"])
        assert request.serial_number == world.subject.certificate.serial_number
        info, now = world.info, time.time()
        assert info.next_attempt_date is not None
        assert info.expires_date is not None
        assert 0.4 < (info.next_attempt_date - now) / (info.expires_date - now) < 0.6
        assert (info.revoked, info.problem) == (False, "")
        kept = world.folder / "state" / "ocsp" / f"{world.subject.digest.hex()}.ocsp"
        await world.until(kept.exists)
        assert kept.read_bytes() == world.answer
        world.stapling.stop()

    asyncio.run(play())
    assert world.notices == []


@pytest.mark.parametrize("where", ["storage", "feed"])
def test_a_response_of_before_is_stapled_without_asking(world: World, where: str) -> None:
    async def play() -> None:
        world.begin()
        await world.until(lambda: world.is_stapled)
        feed = world.stapling._value()
        file = world.folder / "state" / "ocsp" / f"{world.subject.digest.hex()}.ocsp"
        await world.until(file.exists)
        world.stapling.stop()
        if where == "feed":
            file.unlink()
        world.begin(feed if where == "feed" else b"")
        await world.until(lambda: world.is_stapled)
        assert len(world.asked) == 1
        world.stapling.stop()

    asyncio.run(play())


def test_a_stored_response_that_is_another_or_has_ended_is_not_stapled(world: World) -> None:
    now = datetime.datetime.now(datetime.UTC)
    other = Path(world.authority.issue("b.test")[0]).read_bytes()
    folder = world.folder / "state" / "ocsp"
    folder.mkdir(parents=True)
    for content in (world.authority.answer(other), world.authority.answer(world.content, until=now - DAY / 2), b"\0"):
        (folder / f"{world.subject.digest.hex()}.ocsp").write_bytes(content)
        world.answer = None

        async def play() -> None:
            world.begin()
            await world.until(lambda: world.info.problem)
            assert not world.is_stapled
            world.stapling.stop()

        asyncio.run(play())


def test_a_good_response_outlives_failures_of_the_responder(world: World) -> None:
    async def play() -> None:
        world.begin()
        await world.until(lambda: world.is_stapled)
        good = world.answer
        other = Path(world.authority.issue("b.test")[0]).read_bytes()
        for answer, status, why in (
            (None, 200, "connect_refused"),
            (b"<html>", 200, "the response is not one of OCSP"),
            (world.authority.answer(other), 200, "the response is about another certificate"),
            (good, 503, "the responder answers with status 503"),
            (good, 302, "the responder answers with status 302"),
        ):
            world.answer, world.status = answer, status
            await world.ask_again()
            assert why in world.info.problem
            assert world.is_stapled
            assert world.info.expires_date is not None
            event, text = world.notices[-1]
            assert event is OperatorEvent.OCSP_NOT_RENEWED
            assert "the one in use is stapled until" in text
        waits = [float(text.rsplit(" ", 2)[1]) for _, text in world.notices]
        assert all(60 * 2**n <= wait <= 73 * 2**n for n, wait in enumerate(waits))
        world.answer, world.status = good, 200
        await world.ask_again()
        assert world.notices[-1][0] is OperatorEvent.OCSP_RESPONSE_BACK
        assert world.info.problem == ""
        world.stapling.stop()

    asyncio.run(play())


def test_a_revoked_certificate_is_told_once_and_nothing_is_stapled_or_stored(world: World) -> None:
    async def play() -> None:
        world.begin()
        await world.until(lambda: world.is_stapled)
        kept = world.folder / "state" / "ocsp" / f"{world.subject.digest.hex()}.ocsp"
        await world.until(kept.exists)
        world.answer = world.authority.answer(world.content, status=ocsp.OCSPCertStatus.REVOKED)
        for _ in range(2):
            await world.ask_again()
        assert [event for event, _ in world.notices] == [OperatorEvent.CERTIFICATE_REVOKED]
        info = world.info
        assert (info.revoked, info.expires_date, info.problem) == (True, None, "the certificate is revoked")
        assert not world.is_stapled
        assert not kept.exists()
        world.answer = None
        await world.ask_again()
        assert world.info.revoked
        world.stapling.stop()

    asyncio.run(play())


def test_on_a_full_disk_it_is_stapled_all_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ocsp_storage.durable_files, "replace", full)

    async def play() -> None:
        world.begin()
        await world.until(lambda: world.notices)
        assert world.is_stapled
        world.stapling.stop()

    asyncio.run(play())
    ((event, text),) = world.notices
    assert event is OperatorEvent.OCSP_NOT_RENEWED
    assert "is stapled, but cannot be stored in" in text
    assert "No space left on device" in text


def test_what_exceeds_a_feed_is_left_out_and_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        world.begin()
        await world.until(lambda: world.is_stapled)
        monkeypatch.setattr(ocsp_stapling.feeds, "MOST_BYTES", 200)
        assert world.stapling._value() == written({})
        assert world.info.problem == "there are too many responses for the workers"
        assert world.info.expires_date is None
        world.stapling.stop()

    asyncio.run(play())


def test_writes_of_one_response_at_the_same_time_follow_each_other(world: World) -> None:
    def write(number: int) -> None:
        for _ in range(20):
            write_response(world.folder, world.subject, bytes([number]) * 1000)

    async def play() -> None:
        await asyncio.gather(*(asyncio.to_thread(write, number) for number in range(8)))

    asyncio.run(play())
    (kept,) = world.folder.glob("*.ocsp")
    assert len(set(kept.read_bytes())) == 1


def test_files_that_no_certificate_uses_are_removed_in_time_and_no_others(tmp_path: Path) -> None:
    ours, other = tmp_path / f"{'0a' * 32}.ocsp", tmp_path / "other.ocsp"
    for each in (ours, other):
        each.write_bytes(b"")
    remove_old(tmp_path, time.time() + FORGOTTEN_S - 60)
    assert ours.exists()
    remove_old(tmp_path, time.time() + FORGOTTEN_S + 60)
    assert [*tmp_path.iterdir()] == [other]
