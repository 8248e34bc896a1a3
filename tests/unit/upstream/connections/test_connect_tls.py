"""TLS to targets: who is asked for, who is trusted, and what it is when that fails."""

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from fastgw.config.base.value_types import parse_url
from fastgw.config.settings.gateway import UpstreamTls
from fastgw.errors import Fault
from fastgw.upstream.connections.connect import ConnectFailed, connect
from fastgw.upstream.targets import dns
from fastgw.upstream.targets.dns import TargetAddress
from fastgw.upstream.targets.target import Target
from tests.support.certificates import Certificates, made_tls, server_tls, trusting
from tests.support.on_loop import on_loop, sockets
from tests.support.upstream import LONG, SHORT, Greeting, Peer, address_of, failure, greeted


@pytest.fixture
def certificates(tmp_path):
    return Certificates(tmp_path)


@pytest.mark.parametrize("turns", range(12))
@on_loop
async def test_whenever_a_connect_is_cancelled_nothing_is_left(certificates, turns):
    """Cancelled after each number of turns of the loop, from before its first step until after it is done."""
    async with await Greeting.start(tls=server_tls(certificates.issue("127.0.0.1"))) as origin:
        for url in (f"http://127.0.0.1:{origin.port}", f"https://127.0.0.1:{origin.port}"):
            before = sockets()
            peer = Peer()
            opening = asyncio.create_task(connect(Target(parse_url(url), tls=trusting(certificates)), peer, LONG))
            for _ in range(turns):
                await asyncio.sleep(0)
            if opening.cancel():
                with pytest.raises((asyncio.CancelledError, ConnectFailed)):
                    await opening
            else:
                await opening
                await peer.end()
            while sockets() - before:
                await asyncio.sleep(0)


async def local(monkeypatch: pytest.MonkeyPatch, origin: Greeting, tls: ssl.SSLContext, **more: Any) -> Target:
    """The target `https://users.test`, whose address is the origin's."""

    async def look_up(host: str, port: int) -> list[TargetAddress]:
        return [address_of(origin)]

    monkeypatch.setattr(dns, "look_up", look_up)
    return Target(parse_url("https://users.test"), tls=tls, **more)


@on_loop
async def test_tls_asks_for_the_targets_host_and_for_http_1_1(monkeypatch, certificates):
    async with await Greeting.start(tls=server_tls(certificates.issue("users.test"))) as origin:
        target = await local(monkeypatch, origin, trusting(certificates))
        peer = Peer()
        await connect(target, peer, LONG)
        assert peer.transport is not None
        assert peer.transport.tls.selected_alpn_protocol() == "http/1.1"
        assert origin.names == ["users.test"]
        await peer.end()
        target.stop()


@on_loop
async def test_server_name_is_asked_for_and_verified_instead_of_the_host(monkeypatch, certificates):
    async with await Greeting.start(tls=server_tls(certificates.issue("users.internal"))) as origin:
        target = await local(monkeypatch, origin, trusting(certificates), server_name="users.internal")
        await greeted(target)
        assert origin.names == ["users.internal"]
        target.stop()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@on_loop
async def test_an_address_is_verified_and_not_sent_as_a_name(certificates, host):
    """RFC 6066 section 3: literal addresses are not permitted in server_name."""
    async with await Greeting.start(host, server_tls(certificates.issue(host))) as origin:
        shown = f"[{host}]" if ":" in host else host
        await greeted(Target(parse_url(f"https://{shown}:{origin.port}"), tls=trusting(certificates)))
        assert origin.names == [None]


@on_loop
async def test_a_certificate_for_another_address_is_refused(certificates):
    async with await Greeting.start(tls=server_tls(certificates.issue("127.0.0.2"))) as origin:
        failed = await failure(Target(parse_url(f"https://127.0.0.1:{origin.port}"), tls=trusting(certificates)))
        assert failed.fault is Fault.TLS_FAILED
        assert "IP address mismatch" in failed.reason


@on_loop
async def test_a_certificate_for_another_name_is_refused(monkeypatch, certificates):
    async with await Greeting.start(tls=server_tls(certificates.issue("other.test"))) as origin:
        target = await local(monkeypatch, origin, trusting(certificates))
        failed = await failure(target)
        assert failed.fault is Fault.TLS_FAILED
        assert "Hostname mismatch" in failed.reason
        assert "users.test" not in failed.fault.detail
        target.stop()


@pytest.mark.parametrize("settings", [UpstreamTls(), None])
@on_loop
async def test_a_certificate_of_an_unknown_authority_is_refused(monkeypatch, certificates, tmp_path, settings):
    (tmp_path / "other").mkdir()
    settings = settings or UpstreamTls(ca=Certificates(tmp_path / "other").ca)
    async with await Greeting.start(tls=server_tls(certificates.issue("users.test"))) as origin:
        target = await local(monkeypatch, origin, made_tls(settings))
        failed = await failure(target)
        assert failed.fault is Fault.TLS_FAILED
        assert "CERTIFICATE_VERIFY_FAILED" in failed.reason
        target.stop()


@on_loop
async def test_with_verification_off_any_certificate_will_do(monkeypatch, certificates):
    async with await Greeting.start(tls=server_tls(certificates.issue("other.test"))) as origin:
        target = await local(monkeypatch, origin, made_tls(UpstreamTls(verify=False)))
        await greeted(target)
        assert origin.names == ["users.test"]
        target.stop()


@on_loop
async def test_a_client_certificate_is_shown(monkeypatch, certificates):
    server = server_tls(certificates.issue("users.test"), clients=certificates.ca)
    certificate, key = certificates.issue("gateway.test")
    async with await Greeting.start(tls=server) as origin:
        target = await local(monkeypatch, origin, trusting(certificates, certificate=certificate, key=key))
        await greeted(target)
        target.stop()


@on_loop
async def test_without_the_client_certificate_that_is_asked_for_there_is_no_connection(monkeypatch, certificates):
    """TLS 1.2, where the server judges the client before the client is done."""
    server = server_tls(certificates.issue("users.test"), clients=certificates.ca, highest=ssl.TLSVersion.TLSv1_2)
    async with await Greeting.start(tls=server) as origin:
        target = await local(monkeypatch, origin, trusting(certificates))
        assert (await failure(target)).fault is Fault.TLS_FAILED
        target.stop()


@on_loop
async def test_old_versions_of_tls_are_refused(monkeypatch, certificates):
    assert trusting(certificates).minimum_version is ssl.TLSVersion.TLSv1_2
    assert made_tls(UpstreamTls(verify=False)).minimum_version is ssl.TLSVersion.TLSv1_2


@on_loop
async def test_who_does_not_speak_tls_is_a_fault_of_tls(certificates):
    async with await Greeting.start() as origin:
        failed = await failure(Target(parse_url(f"https://127.0.0.1:{origin.port}"), tls=trusting(certificates)))
        assert failed.fault is Fault.TLS_FAILED


async def silent() -> tuple[asyncio.Server, list[Any]]:
    """A server that takes connections and says nothing."""
    taken: list[Any] = []

    class Silent(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            taken.append(transport)

    return await asyncio.get_running_loop().create_server(Silent, "127.0.0.1", 0), taken


@pytest.mark.parametrize("end", ["timeout", "cancel", "close"])
@on_loop
async def test_a_handshake_that_does_not_end_is_given_up_and_closed(certificates, end):
    server, taken = await silent()
    async with Greeting(server, []) as origin:
        target = Target(parse_url(f"https://127.0.0.1:{origin.port}"), tls=trusting(certificates))
        opening = asyncio.create_task(connect(target, Peer(), SHORT if end == "timeout" else LONG))
        while not taken:
            await asyncio.sleep(0)
        if end == "cancel":
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
        else:
            if end == "close":
                taken[0].close()
            with pytest.raises(ConnectFailed) as raised:
                await opening
            fault = {"timeout": Fault.CONNECT_TIMEOUT, "close": Fault.TLS_FAILED}[end]
            assert raised.value.fault is fault
            assert raised.value.reason.startswith("TLS handshake: ")
        while not taken[0].is_closing():  # it saw our end close
            await asyncio.sleep(0)


def test_an_encrypted_key_is_an_error_and_asks_nobody(certificates, tmp_path):
    certificate, key = certificates.issue("gateway.test")
    loaded = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    Path(key).write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ssl.SSLError):
        trusting(certificates, certificate=certificate, key=key)


@on_loop
@pytest.mark.parametrize(("timeout", "handshake"), [(LONG, SHORT), (SHORT, None)])
async def test_a_handshake_has_its_own_time_or_that_of_the_connect(
    certificates: Certificates, timeout: float, handshake: float | None
) -> None:
    """Here of somebody who says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system accepts
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConnectFailed) as failed:
            await connect(Target(parse_url(url), tls=trusting(certificates)), Peer(), timeout, handshake)
        assert failed.value.fault is Fault.CONNECT_TIMEOUT
        assert failed.value.reason == f"TLS handshake: timed out after {SHORT:g} s"
