"""Sessions of TLS: what a target offers is resumed, and never in place of a verification that is due."""

import asyncio
import ssl
from time import monotonic
from typing import Any

import pytest

from fastgw.config.settings.gateway import UpstreamTls
from fastgw.errors import Fault
from fastgw.upstream.client.http_client import FetchFailed
from fastgw.upstream.targets import tls as upstream_tls
from fastgw.upstream.targets.tls import LEFT_ALONE_S, MOST_ADDRESSES, MOST_REFUSED, Resuming, TargetTls
from tests.support.certificates import Certificates, server_tls, trusting
from tests.support.fetching import fetching
from tests.support.on_loop import on_loop, until
from tests.support.origin import Origin, close

CLOSING = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
V1_2, V1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@pytest.fixture
def authority(tmp_path: Any) -> Certificates:
    return Certificates(tmp_path)


def serving(tls: ssl.SSLContext, port: int = 0) -> Origin:
    """One request for each connection."""
    origin = Origin(("127.0.0.1", port), tls=tls)
    origin.answer(CLOSING, close)
    return origin.serve()


def noting(tls: ssl.SSLContext) -> tuple[ssl.SSLContext, list[bool]]:
    """A server's context, and for each connection whether it was resumed."""
    found: list[bool] = []

    class Noted(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            found.append(bool(self.session_reused))

    tls.sslsocket_class = Noted
    return tls, found


@pytest.mark.parametrize("highest", [V1_2, V1_3])
@on_loop
async def test_a_session_is_resumed_as_often_as_the_target_takes_it(authority: Certificates, highest: int) -> None:
    tls, found = noting(server_tls(authority.issue("127.0.0.1"), highest=highest))
    with serving(tls) as origin:
        async with fetching() as fetcher:
            for _ in range(4):
                assert (await fetcher.fetch(origin.url, tls=UpstreamTls(ca=authority.ca))).body == b"ok"
    assert found == [False, True, True, True]


@pytest.mark.parametrize("highest", [V1_2, V1_3])
@on_loop
async def test_many_connections_at_once_resume_one_session(authority: Certificates, highest: int) -> None:
    tls, found = noting(server_tls(authority.issue("127.0.0.1"), highest=highest))
    with serving(tls) as origin:
        async with fetching() as fetcher:
            settings = UpstreamTls(ca=authority.ca)
            await fetcher.fetch(origin.url, tls=settings)
            await asyncio.gather(*(fetcher.fetch(origin.url, tls=settings) for _ in range(8)))
    assert found == [False] + [True] * 8


@on_loop
async def test_no_session_is_resumed_longer_than_a_verification_counts(
    authority: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_tls, "RESUMED_S", 0.0)
    tls, found = noting(server_tls(authority.issue("127.0.0.1")))
    with serving(tls) as origin:
        async with fetching() as fetcher:
            for _ in range(3):
                await fetcher.fetch(origin.url, tls=UpstreamTls(ca=authority.ca))
    assert found == [False] * 3


@pytest.mark.parametrize("highest", [V1_2, V1_3])
@on_loop
async def test_a_target_that_has_forgotten_is_met_anew_and_verified_again(
    authority: Certificates, highest: int, tmp_path: Any
) -> None:
    """A restart: other ticket keys. It may have another certificate by now, too, and that is looked at."""
    settings = UpstreamTls(ca=authority.ca)
    first, _ = noting(server_tls(authority.issue("127.0.0.1"), highest=highest))
    second, found = noting(server_tls(authority.issue("127.0.0.1"), highest=highest))
    (tmp_path / "other").mkdir()
    third = server_tls(Certificates(tmp_path / "other").issue("127.0.0.1"), highest=highest)
    async with fetching() as fetcher:
        with serving(first) as origin:
            port, url = origin.port, origin.url
            await fetcher.fetch(url, tls=settings)
        with serving(second, port):
            for _ in range(3):
                assert (await fetcher.fetch(url, tls=settings)).body == b"ok"
        assert found == [False, True, True]
        with serving(third, port):
            with pytest.raises(FetchFailed) as raised:
                await fetcher.fetch(url, tls=settings)
            assert raised.value.fault is Fault.TLS_FAILED


@pytest.mark.parametrize("highest", [V1_2, V1_3])
@on_loop
async def test_a_target_without_tickets_is_spoken_to_as_before(authority: Certificates, highest: int) -> None:
    tls, found = noting(server_tls(authority.issue("127.0.0.1"), highest=highest))
    tls.options |= ssl.OP_NO_TICKET
    tls.num_tickets = 0
    with serving(tls) as origin:
        async with fetching() as fetcher:
            for _ in range(3):
                assert (await fetcher.fetch(origin.url, tls=UpstreamTls(ca=authority.ca))).body == b"ok"
                # Before OpenSSL 3.5 it forgets a session whose connection it closes without a close_notify.
                await until(lambda: origin.connections[-1].sock.fileno() < 0)
    remembers = highest == V1_2 and tls.session_stats()["number"] > 0
    assert found == [False, remembers, remembers]


@on_loop
async def test_a_target_that_takes_no_session_back_is_left_alone(
    authority: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it costs to have one would be for nothing. After a while it is tried again."""
    copied: list[ssl.SSLObject] = []
    real = Resuming.wrap_bio

    def wrap_bio(self: Resuming, *words: Any, **more: Any) -> ssl.SSLObject:
        made = real(self, *words, **more)
        copied.append(made)
        return made

    monkeypatch.setattr(Resuming, "wrap_bio", wrap_bio)
    tls, found = noting(server_tls(authority.issue("127.0.0.1"), highest=V1_3))
    settings = UpstreamTls(ca=authority.ca)
    async with fetching() as fetcher:
        port, url = 0, ""
        for _ in range(MOST_REFUSED + 3):  # each a target that has been restarted, and has forgotten
            with serving(server_tls(authority.issue("127.0.0.1"), highest=V1_3), port) as origin:
                port, url = origin.port, origin.url
                await fetcher.fetch(url, tls=settings)
        assert [vars(made)["offered"] for made in copied] == [False, *[True] * MOST_REFUSED, False, False]
        monkeypatch.setattr(upstream_tls, "monotonic", lambda: monotonic() + LEFT_ALONE_S)
        with serving(tls, port):
            for _ in range(3):
                await fetcher.fetch(url, tls=settings)
        assert found == [False, True, True]


@pytest.mark.parametrize("highest", [V1_2, V1_3])
@on_loop
async def test_a_session_belongs_to_one_identity(authority: Certificates, highest: int) -> None:
    """Else who shows no certificate could resume what was agreed with one; and another name was never verified."""
    certificate, key = authority.issue("gateway.test")
    tls, found = noting(server_tls(authority.issue("127.0.0.1"), clients=authority.ca, highest=highest))
    with serving(tls) as origin:
        async with fetching() as fetcher:
            known = UpstreamTls(ca=authority.ca, certificate=certificate, key=key)
            for _ in range(2):
                assert (await fetcher.fetch(origin.url, tls=known)).body == b"ok"
            assert found == [False, True]
            for settings in (UpstreamTls(ca=authority.ca), UpstreamTls(verify=False)):
                with pytest.raises(FetchFailed) as raised:
                    await fetcher.fetch(origin.url, tls=settings)
                assert raised.value.fault in (Fault.TLS_FAILED, Fault.CONNECTION_LOST)
            other_name = UpstreamTls(ca=authority.ca, certificate=certificate, key=key, server_name="other.test")
            with pytest.raises(FetchFailed) as raised:
                await fetcher.fetch(origin.url, tls=other_name)
            assert raised.value.fault is Fault.TLS_FAILED


def test_each_address_has_sessions_of_its_own_and_their_number_is_bounded(authority: Certificates) -> None:
    target = TargetTls(trusting(authority))
    first = target.at(0)
    assert target.at(0) is first is not target.at(1)
    for address in range(MOST_ADDRESSES + 1):
        target.at(address)
    assert target.at(0) is not first
