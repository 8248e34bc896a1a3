"""Opening connections: addresses raced, every failure its fault, and no socket left behind."""

import asyncio
import errno
import gc
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from fastgw.config.base.value_types import parse_url
from fastgw.errors import Fault
from fastgw.upstream.connections import connect as connecting
from fastgw.upstream.connections.connect import ConnectFailed, connect
from fastgw.upstream.targets import dns
from fastgw.upstream.targets.dns import TargetAddress
from fastgw.upstream.targets.target import Target
from tests.support.collector import no_collector
from tests.support.on_loop import on_loop, sockets, until
from tests.support.upstream import LONG, SHORT, Greeting, Peer, address_of, failure, greeted, named


@pytest.fixture
def refusing() -> Iterator[TargetAddress]:
    """An address where nobody listens: bound, so that nobody else takes it."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield TargetAddress(socket.AF_INET, holder.getsockname())


class BlackHole:
    """An address that answers no connect: its queue is full, so the system drops what comes."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        with ExitStack() as undo:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self.listener = undo.enter_context(socket.socket(family))
            self.listener.bind((host, 0))
            self.listener.listen(0)
            self.address = TargetAddress(family, self.listener.getsockname())
            self.port = self.listener.getsockname()[1]
            undo.enter_context(socket.create_connection(self.address.sockaddr[:2]))  # and the queue is full
            self._undo = undo.pop_all()

    def close(self) -> None:
        self._undo.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@on_loop
async def test_a_tcp_target_is_connected_to_without_delay_on_small_writes(host):
    async with await Greeting.start(host) as origin:
        peer = Peer()
        await connect(Target(parse_url(f"http://{f'[{host}]' if ':' in host else host}:{origin.port}")), peer, LONG)
        assert peer.transport is not None
        with socket.socket(fileno=os.dup(peer.transport.fd)) as connected:
            assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await peer.end()


@on_loop
async def test_a_unix_socket_is_connected_to(tmp_path):
    path = tmp_path / "origin.sock"
    async with await Greeting.start_unix(path):
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
        assert (late.fault, late.reason) == (Fault.CONNECT_TIMEOUT, "connect: timed out after 0.05 s")
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
        assert (failed.fault, failed.reason) == (Fault.CONNECT_TIMEOUT, "connect: timed out after 0.05 s")


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (errno.ECONNRESET, Fault.CONNECT_REFUSED),  # it hung up at once
        (errno.ENOTCONN, Fault.CONNECT_REFUSED),
        (errno.ENETUNREACH, Fault.UPSTREAM_UNREACHABLE),
        (errno.EHOSTUNREACH, Fault.UPSTREAM_UNREACHABLE),
        (errno.ETIMEDOUT, Fault.CONNECT_TIMEOUT),
        (errno.ECONNREFUSED, Fault.CONNECT_REFUSED),
        (errno.EMFILE, Fault.CONNECTIONS_EXHAUSTED),
        (errno.ENOBUFS, Fault.CONNECTIONS_EXHAUSTED),
        (errno.EADDRNOTAVAIL, Fault.UPSTREAM_UNREACHABLE),  # not even for UDP: it is no port that is missing
    ],
)
@on_loop
async def test_each_error_of_the_system_is_a_fault(monkeypatch, code, fault):
    class Failing(socket.socket):
        def connect_ex(self, address: object) -> int:
            return code

    target = named(monkeypatch, TargetAddress(socket.AF_INET, ("192.0.2.1", 80)))
    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", Failing)
        assert (await failure(target)).fault is fault
    target.stop()


@on_loop
async def test_when_no_local_port_is_left_it_is_the_gateway_that_is_exhausted(monkeypatch):
    class WithoutPorts(socket.socket):
        def connect_ex(self, address: object) -> int:
            return errno.EADDRNOTAVAIL if self.type == socket.SOCK_STREAM else 0

    target = named(monkeypatch, TargetAddress(socket.AF_INET, ("192.0.2.1", 80)))
    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", WithoutPorts)
        failed = await failure(target)
    assert failed.fault is Fault.CONNECTIONS_EXHAUSTED
    assert "Cannot assign requested address" in failed.reason
    target.stop()


@on_loop
async def test_a_name_that_cannot_be_resolved_is_a_fault_of_dns(monkeypatch):
    async def look_up(host: str, port: int) -> list[TargetAddress]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(dns, "look_up", look_up)
    target = Target(parse_url("http://users:80"))
    failed = await failure(target)
    assert failed.fault is Fault.DNS_FAILED
    assert failed.reason.startswith("name lookup: users: ")
    target.stop()


@on_loop
async def test_a_resolver_that_does_not_answer_is_a_fault_of_dns(monkeypatch):
    async def look_up(host: str, port: int) -> list[TargetAddress]:
        return await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(dns, "look_up", look_up)
    target = Target(parse_url("http://users:80"))
    failed = await failure(target, SHORT)
    assert (failed.fault, failed.reason) == (Fault.DNS_FAILED, "name lookup: timed out after 0.05 s")
    target.stop()


@on_loop
async def test_an_address_that_refuses_is_passed_over_at_once(monkeypatch, refusing):
    monkeypatch.setattr(connecting, "ATTEMPT_DELAY", LONG * 10)
    async with await Greeting.start() as origin:
        target = named(monkeypatch, refusing, address_of(origin))
        assert await greeted(target) == address_of(origin)
        target.stop()


@on_loop
async def test_beside_an_address_that_does_not_answer_the_next_is_tried_and_then_preferred(monkeypatch):
    monkeypatch.setattr(connecting, "ATTEMPT_DELAY", SHORT)
    with closing(BlackHole("::1")) as hole:
        async with await Greeting.start() as origin:
            target = named(monkeypatch, hole.address, address_of(origin))
            assert await greeted(target) == address_of(origin)
            monkeypatch.setattr(connecting, "ATTEMPT_DELAY", LONG * 10)
            for _ in range(4):
                assert await greeted(target) == address_of(origin)
            target.stop()


@on_loop
async def test_of_two_that_answer_together_one_is_taken_and_one_closed(monkeypatch):
    """Both are found writable before the task that waits has run."""
    monkeypatch.setattr(connecting, "ATTEMPT_DELAY", 0.0)
    waiting: list[asyncio.Future[None]] = []

    class Late(socket.socket):
        def connect_ex(self, address: Any) -> int:
            return super().connect_ex(address) or errno.EINPROGRESS

    async def writable(sock: socket.socket) -> None:
        waiting.append(asyncio.get_running_loop().create_future())
        await waiting[-1]

    async with await Greeting.start() as one, await Greeting.start() as other:
        before = sockets()
        with monkeypatch.context() as patched:
            patched.setattr(socket, "socket", Late)
            patched.setattr(connecting, "_writable", writable)
            addresses = [address_of(one), address_of(other)]
            running = asyncio.create_task(connecting._dial_any(Target(parse_url("http://users:80")), addresses))
            await until(lambda: len(waiting) == 2)
            for each in waiting:
                each.set_result(None)
            sock, address = await running
        assert address in addresses
        sock.close()
        await until(lambda: sockets() <= before)


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
        assert (await opening)[1] == hole.address
        await peer.end()
        target.stop()


@on_loop
async def test_when_all_addresses_fail_so_does_the_connect(monkeypatch, refusing):
    target = named(monkeypatch, refusing, refusing._replace(sockaddr=("127.0.0.2", refusing.sockaddr[1])))
    fault = None
    with no_collector():
        try:
            await connect(target, Peer(), LONG)
        except ConnectFailed as error:
            fault = error.fault
        await asyncio.sleep(0)
        assert not any(isinstance(each, ConnectionRefusedError) for each in gc.get_objects())  # no circle holds it
    assert fault is Fault.CONNECT_REFUSED
    target.stop()


@on_loop
async def test_a_cancelled_connect_closes_its_sockets(monkeypatch):
    monkeypatch.setattr(connecting, "ATTEMPT_DELAY", 0.001)
    before = sockets()
    with closing(BlackHole()) as first, closing(BlackHole("::1")) as second:
        holding = sockets()
        target = named(monkeypatch, first.address, second.address)
        opening = asyncio.create_task(connect(target, Peer(), LONG))
        while len(sockets() - holding) < 2:
            await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert sockets() == holding
        target.stop()
    assert sockets() == before
