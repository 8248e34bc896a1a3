"""Opening connections: addresses raced, TLS verified, every failure its fault, and no socket left behind."""

import asyncio
import datetime
import errno
import os
import re
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, closing
from functools import wraps
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fastgw.config.settings import UpstreamTls
from fastgw.config.values import parse_url
from fastgw.errors import Fault
from fastgw.upstream import connect as connecting
from fastgw.upstream import resolve
from fastgw.upstream.connect import ConnectFailed, connect
from fastgw.upstream.resolve import Address
from fastgw.upstream.target import Target, client_tls

LONG = 10.0  # seconds: a time limit that is not to be reached
SHORT = 0.05  # seconds: one that is


def descriptors() -> set[tuple[str, str]]:
    """The sockets this process holds: descriptor and inode, as a number alone may have been used again."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            leads_to = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue  # the listing's own
        if leads_to.startswith("socket:"):
            found.add((number, leads_to))
    return found


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run the test on uvloop, for 20 s at most. It must end with the sockets it began with."""

    async def limited(*args: Any, **named: Any) -> None:
        async with asyncio.timeout(20):
            before = descriptors()
            await test(*args, **named)
            while descriptors() - before:
                await asyncio.sleep(0)

    @wraps(test)
    def run(*args: Any, **named: Any) -> None:
        uvloop.run(limited(*args, **named))

    return run


class Peer(asyncio.Protocol):
    """Our end of a connection."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.lost = asyncio.get_running_loop().create_future()
        self.received = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, received: bytes) -> None:
        self.received += received

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(error)

    async def end(self) -> None:
        assert self.transport is not None
        self.transport.abort()
        await self.lost


class Origin:
    """A server that says `hello` and what SNI it was asked for."""

    def __init__(self, server: asyncio.Server, names: list[str | None]) -> None:
        self.server = server
        self.port = server.sockets[0].getsockname()[1] if server.sockets[0].family != socket.AF_UNIX else 0
        self.names = names

    @classmethod
    async def start(cls, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> "Origin":
        names: list[str | None] = []
        if tls is not None:
            tls.sni_callback = lambda _, name, __: names.append(name)
        return cls(await asyncio.get_running_loop().create_server(Greeter, host, 0, ssl=tls), names)

    async def __aenter__(self) -> "Origin":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        transport.write(b"hello")


async def greeted(target: Target, timeout: float = LONG) -> Address:
    """Connect, be greeted, close. Returns the address connected to."""
    peer = Peer()
    address = await connect(target, peer, timeout)
    while peer.received != b"hello":
        assert not peer.lost.done(), peer.lost
        await asyncio.sleep(0)
    await peer.end()
    return address


async def failure(target: Target, timeout: float = LONG) -> ConnectFailed:
    with pytest.raises(ConnectFailed) as raised:
        await connect(target, Peer(), timeout)
    return raised.value


@pytest.fixture
def refusing() -> Iterator[Address]:
    """An address where nobody listens: bound, so that nobody else takes it."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield Address(socket.AF_INET, holder.getsockname())


class BlackHole:
    """An address that answers no connect: its queue is full, so the system drops what comes."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        with ExitStack() as undo:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self.listener = undo.enter_context(socket.socket(family))
            self.listener.bind((host, 0))
            self.listener.listen(0)
            self.address = Address(family, self.listener.getsockname())
            self.port = self.listener.getsockname()[1]
            undo.enter_context(socket.create_connection(self.address.sockaddr[:2]))  # and the queue is full
            self._undo = undo.pop_all()

    def close(self) -> None:
        self._undo.close()


def named(monkeypatch: pytest.MonkeyPatch, *addresses: Address) -> Target:
    """A target whose name has these addresses."""

    async def look_up(host: str, port: int) -> list[Address]:
        return list(addresses)

    monkeypatch.setattr(resolve, "look_up", look_up)
    return Target(parse_url("http://users:80"), resolve_interval=3600.0)


def at(origin: Origin) -> Address:
    listener = origin.server.sockets[0]
    return Address(listener.family, listener.getsockname())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@on_loop
async def test_a_tcp_target_is_connected_to_without_delay_on_small_writes(host):
    async with await Origin.start(host) as origin:
        peer = Peer()
        await connect(Target(parse_url(f"http://{f'[{host}]' if ':' in host else host}:{origin.port}")), peer, LONG)
        assert peer.transport is not None
        assert peer.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await peer.end()


@on_loop
async def test_a_unix_socket_is_connected_to(tmp_path):
    path = tmp_path / "origin.sock"
    server = await asyncio.get_running_loop().create_unix_server(Greeter, path)
    async with Origin(server, []):
        await greeted(Target(parse_url(f"unix:{path}")))


@on_loop
async def test_a_unix_socket_whose_queue_is_full_is_tried_until_there_is_room(tmp_path):
    path = str(tmp_path / "origin.sock")
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as fillers:
        listener.bind(path)
        listener.listen(0)
        while True:
            filler = fillers.enter_context(socket.socket(socket.AF_UNIX))
            filler.setblocking(False)
            if filler.connect_ex(path) == errno.EAGAIN:
                break
        late = await failure(Target(parse_url(f"unix:{path}")), SHORT)
        assert (late.fault, late.reason) == (Fault.CONNECT_TIMEOUT, "connect: not done within 0.05 s")
        peer = Peer()
        opening = asyncio.create_task(connect(Target(parse_url(f"unix:{path}")), peer, LONG))
        await asyncio.sleep(0)
        assert not opening.done()
        listener.accept()[0].close()
        await opening
        await peer.end()


@on_loop
async def test_a_unix_socket_that_is_not_there_is_refused(tmp_path):
    assert (await failure(Target(parse_url(f"unix:{tmp_path}/none.sock")))).fault is Fault.CONNECT_REFUSED


@on_loop
async def test_where_nobody_listens_the_connect_is_refused(refusing):
    failed = await failure(Target(parse_url(f"http://127.0.0.1:{refusing.sockaddr[1]}")))
    assert failed.fault is Fault.CONNECT_REFUSED
    assert "Connection refused" in failed.reason


@on_loop
async def test_who_does_not_answer_times_out():
    with closing(BlackHole()) as hole:
        failed = await failure(Target(parse_url(f"http://127.0.0.1:{hole.port}")), SHORT)
        assert (failed.fault, failed.reason) == (Fault.CONNECT_TIMEOUT, "connect: not done within 0.05 s")


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (errno.EADDRNOTAVAIL, Fault.UPSTREAM_UNREACHABLE),  # no port left on our side
        (errno.ENETUNREACH, Fault.UPSTREAM_UNREACHABLE),
        (errno.EHOSTUNREACH, Fault.UPSTREAM_UNREACHABLE),
        (errno.ETIMEDOUT, Fault.CONNECT_TIMEOUT),
        (errno.ECONNREFUSED, Fault.CONNECT_REFUSED),
        (errno.EMFILE, Fault.CONNECTIONS_EXHAUSTED),
        (errno.ENOBUFS, Fault.CONNECTIONS_EXHAUSTED),
    ],
)
@on_loop
async def test_each_error_of_the_system_is_a_fault(monkeypatch, code, fault):
    class Failing(socket.socket):
        def connect_ex(self, address: object) -> int:
            return code

    target = named(monkeypatch, Address(socket.AF_INET, ("192.0.2.1", 80)))
    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", Failing)
        assert (await failure(target)).fault is fault
    target.stop()


@on_loop
async def test_a_name_that_cannot_be_resolved_is_a_fault_of_dns(monkeypatch):
    async def look_up(host: str, port: int) -> list[Address]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(resolve, "look_up", look_up)
    target = Target(parse_url("http://users:80"))
    failed = await failure(target)
    assert failed.fault is Fault.DNS_FAILED
    assert failed.reason.startswith("name lookup: users: ")
    target.stop()


@on_loop
async def test_a_resolver_that_does_not_answer_is_a_fault_of_dns(monkeypatch):
    async def look_up(host: str, port: int) -> list[Address]:
        return await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(resolve, "look_up", look_up)
    target = Target(parse_url("http://users:80"))
    failed = await failure(target, SHORT)
    assert (failed.fault, failed.reason) == (Fault.DNS_FAILED, "name lookup: not done within 0.05 s")
    target.stop()


@on_loop
async def test_an_address_that_refuses_is_passed_over_at_once(monkeypatch, refusing):
    monkeypatch.setattr(connecting, "ATTEMPT_DELAY", LONG * 10)
    async with await Origin.start() as origin:
        target = named(monkeypatch, refusing, at(origin))
        assert await greeted(target) == at(origin)
        target.stop()


@on_loop
async def test_beside_an_address_that_does_not_answer_the_next_is_tried_and_then_preferred(monkeypatch):
    monkeypatch.setattr(connecting, "ATTEMPT_DELAY", SHORT)
    with closing(BlackHole("::1")) as hole:
        async with await Origin.start() as origin:
            target = named(monkeypatch, hole.address, at(origin))
            assert await greeted(target) == at(origin)
            monkeypatch.setattr(connecting, "ATTEMPT_DELAY", LONG * 10)
            for _ in range(4):
                assert await greeted(target) == at(origin)
            target.stop()


@on_loop
async def test_a_slow_address_may_still_win(monkeypatch, refusing):
    """The first attempt goes on while the next ones run: here they fail, and it is answered late."""
    monkeypatch.setattr(connecting, "ATTEMPT_DELAY", 0.001)
    with closing(BlackHole()) as hole:
        target = named(monkeypatch, hole.address, refusing)
        peer = Peer()
        opening = asyncio.create_task(connect(target, peer, LONG))
        while "1 avoided" not in repr(target._name):
            await asyncio.sleep(0)
        hole.listener.accept()[0].close()  # makes room for when the system sends the first attempt's SYN again
        assert await opening == hole.address
        await peer.end()
        target.stop()


@on_loop
async def test_when_all_addresses_fail_so_does_the_connect(monkeypatch, refusing):
    target = named(monkeypatch, refusing, refusing._replace(sockaddr=("127.0.0.2", refusing.sockaddr[1])))
    assert (await failure(target)).fault is Fault.CONNECT_REFUSED
    target.stop()


@on_loop
async def test_a_cancelled_connect_closes_its_sockets(monkeypatch):
    monkeypatch.setattr(connecting, "ATTEMPT_DELAY", 0.001)
    before = descriptors()
    with closing(BlackHole()) as first, closing(BlackHole("::1")) as second:
        holding = descriptors()
        target = named(monkeypatch, first.address, second.address)
        opening = asyncio.create_task(connect(target, Peer(), LONG))
        while len(descriptors() - holding) < 2:
            await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert descriptors() == holding
        target.stop()
    assert descriptors() == before


@pytest.mark.parametrize("turns", range(12))
@on_loop
async def test_whenever_a_connect_is_cancelled_nothing_is_left(certificates, turns):
    """Cancelled after each number of turns of the loop, from before its first step until after it is done."""
    async with await Origin.start(tls=server_tls(certificates.issue("127.0.0.1"))) as origin:
        for url in (f"http://127.0.0.1:{origin.port}", f"https://127.0.0.1:{origin.port}"):
            before = descriptors()
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
            while descriptors() - before:
                await asyncio.sleep(0)


# TLS


class Certificates:
    """A certificate authority, in files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
        self.ca = str(folder / "ca.pem")
        made = self._begin(self._name, self._key.public_key())
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self._certificate = made.sign(self._key, hashes.SHA256())
        Path(self.ca).write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[str, str]:
        """A certificate for a name or an address, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issued")])
        is_address = re.fullmatch(r"[0-9.]+|.*:.*", name) is not None
        alternative = x509.IPAddress(ip_address(name)) if is_address else x509.DNSName(name)
        made = self._begin(subject, key.public_key())
        made = made.add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        certificate = made.sign(self._key, hashes.SHA256())
        stem = self._folder / name.replace(":", "_")
        certificate_file, key_file = stem.with_suffix(".pem"), stem.with_suffix(".key")
        certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return str(certificate_file), str(key_file)

    def _begin(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        today = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(today - datetime.timedelta(days=1))
            .not_valid_after(today + datetime.timedelta(days=1))
        )


@pytest.fixture
def certificates(tmp_path):
    return Certificates(tmp_path)


def server_tls(issued: tuple[str, str], clients: str | None = None, highest: int | None = None) -> ssl.SSLContext:
    """A server's side, which asks for a certificate of the authority `clients` if there is one."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(*issued)
    made.set_alpn_protocols(["h2", "http/1.1"])
    if clients is not None:
        made.load_verify_locations(clients)
        made.verify_mode = ssl.CERT_REQUIRED
    if highest is not None:
        made.maximum_version = ssl.TLSVersion(highest)
    return made


def trusting(certificates: Certificates, **more: Any) -> ssl.SSLContext:
    return client_tls(UpstreamTls(ca=certificates.ca, **more))


async def local(monkeypatch: pytest.MonkeyPatch, origin: Origin, tls: ssl.SSLContext, **more: Any) -> Target:
    """The target `https://users.test`, whose address is the origin's."""

    async def look_up(host: str, port: int) -> list[Address]:
        return [at(origin)]

    monkeypatch.setattr(resolve, "look_up", look_up)
    return Target(parse_url("https://users.test"), tls=tls, **more)


@on_loop
async def test_tls_asks_for_the_targets_host_and_for_http_1_1(monkeypatch, certificates):
    async with await Origin.start(tls=server_tls(certificates.issue("users.test"))) as origin:
        target = await local(monkeypatch, origin, trusting(certificates))
        peer = Peer()
        await connect(target, peer, LONG)
        assert peer.transport is not None
        assert peer.transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        assert origin.names == ["users.test"]
        await peer.end()
        target.stop()


@on_loop
async def test_server_name_is_asked_for_and_verified_instead_of_the_host(monkeypatch, certificates):
    async with await Origin.start(tls=server_tls(certificates.issue("users.internal"))) as origin:
        target = await local(monkeypatch, origin, trusting(certificates), server_name="users.internal")
        await greeted(target)
        assert origin.names == ["users.internal"]
        target.stop()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@on_loop
async def test_an_address_is_verified_and_not_sent_as_a_name(certificates, host):
    """RFC 6066 section 3: literal addresses are not permitted in server_name."""
    async with await Origin.start(host, server_tls(certificates.issue(host))) as origin:
        shown = f"[{host}]" if ":" in host else host
        await greeted(Target(parse_url(f"https://{shown}:{origin.port}"), tls=trusting(certificates)))
        assert origin.names == [None]


@on_loop
async def test_a_certificate_for_another_address_is_refused(certificates):
    async with await Origin.start(tls=server_tls(certificates.issue("127.0.0.2"))) as origin:
        failed = await failure(Target(parse_url(f"https://127.0.0.1:{origin.port}"), tls=trusting(certificates)))
        assert failed.fault is Fault.TLS_FAILED
        assert "IP address mismatch" in failed.reason


@on_loop
async def test_a_certificate_for_another_name_is_refused(monkeypatch, certificates):
    async with await Origin.start(tls=server_tls(certificates.issue("other.test"))) as origin:
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
    async with await Origin.start(tls=server_tls(certificates.issue("users.test"))) as origin:
        target = await local(monkeypatch, origin, client_tls(settings))
        failed = await failure(target)
        assert failed.fault is Fault.TLS_FAILED
        assert "CERTIFICATE_VERIFY_FAILED" in failed.reason
        target.stop()


@on_loop
async def test_with_verification_off_any_certificate_will_do(monkeypatch, certificates):
    async with await Origin.start(tls=server_tls(certificates.issue("other.test"))) as origin:
        target = await local(monkeypatch, origin, client_tls(UpstreamTls(verify=False)))
        await greeted(target)
        assert origin.names == ["users.test"]
        target.stop()


@on_loop
async def test_a_client_certificate_is_shown(monkeypatch, certificates):
    server = server_tls(certificates.issue("users.test"), clients=certificates.ca)
    certificate, key = certificates.issue("gateway.test")
    async with await Origin.start(tls=server) as origin:
        target = await local(monkeypatch, origin, trusting(certificates, certificate=certificate, key=key))
        await greeted(target)
        target.stop()


@on_loop
async def test_without_the_client_certificate_that_is_asked_for_there_is_no_connection(monkeypatch, certificates):
    """TLS 1.2, where the server judges the client before the client is done."""
    server = server_tls(certificates.issue("users.test"), clients=certificates.ca, highest=ssl.TLSVersion.TLSv1_2)
    async with await Origin.start(tls=server) as origin:
        target = await local(monkeypatch, origin, trusting(certificates))
        assert (await failure(target)).fault is Fault.TLS_FAILED
        target.stop()


@on_loop
async def test_old_versions_of_tls_are_refused(monkeypatch, certificates):
    assert trusting(certificates).minimum_version is ssl.TLSVersion.TLSv1_2
    assert client_tls(UpstreamTls(verify=False)).minimum_version is ssl.TLSVersion.TLSv1_2


@on_loop
async def test_who_does_not_speak_tls_is_a_fault_of_tls(certificates):
    async with await Origin.start() as origin:
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
    async with Origin(server, []) as origin:
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
