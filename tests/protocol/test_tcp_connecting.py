"""Listeners of TCP while a target is connected to, where a socket does not take what is sent, and unix sockets."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client import connect
from tests.support.gateway import Gateway
from tests.support.peer import DEADLINE
from tests.support.tcp import (
    TcpTarget,
    connected,
    connects_and_is_reset,
    is_reset,
    read_all,
    read_exactly,
    reset,
    tcp_config,
    tcp_target,
)

MUCH = 48 << 20  # more than the sockets of both sides hold


@contextlib.contextmanager
def silent_target() -> Iterator[str]:
    """URL of a target that answers no SYN: its queue is full, and Linux drops what comes then."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        port: int = listening.getsockname()[1]
        waiting = []
        try:
            while True:
                waiting.append(socket.create_connection(("127.0.0.1", port), timeout=0.3))
        except TimeoutError:
            yield f"tcp://127.0.0.1:{port}"
        finally:
            for each in waiting:
                each.close()


@pytest.fixture
def target() -> Iterator[TcpTarget]:
    with tcp_target() as made:
        yield made


def test_a_target_that_does_not_answer_is_left_for_the_next(target: TcpTarget, tmp_path: Path) -> None:
    with silent_target() as silent:
        config = tcp_config(silent, timeouts={"connect": "200ms"}, health_checks={"passive": None})
        config["upstreams"]["service"]["targets"].append(target.url)
        with Gateway(config, tmp_path) as gateway:
            for _ in range(2):
                with connected(gateway.port()) as client, target.accept() as service:
                    client.sendall(b"to whom it concerns")
                    assert read_exactly(service, 19) == b"to whom it concerns"
            record = gateway.wait_for_record(retries=1)
            assert (record["status"], record["target"]) == (200, target.url.removeprefix("tcp://"))
            assert 0 < float(record["upstream_s"]) < DEADLINE


def test_a_target_that_does_not_answer_is_a_timeout(tmp_path: Path) -> None:
    with silent_target() as silent:
        config = tcp_config(silent, timeouts={"connect": "200ms"}, retries={"max": 0})
        with Gateway(config, tmp_path) as gateway:
            assert connects_and_is_reset(gateway.port())
            record = gateway.wait_for_record(fault="connect_timeout")
            assert (record["status"], record["fault_detail"]) == (504, "connect timed out after 0.2 s")


def test_all_time_may_end_while_a_target_is_connected_to(tmp_path: Path) -> None:
    with silent_target() as silent:
        config = tcp_config(silent, timeouts={"connect": "10s", "total": "300ms"})
        with Gateway(config, tmp_path) as gateway, connected(gateway.port()) as client:
            assert client.recv(1) == b""
            gateway.wait_for_record(fault="tunnel_expired")


def test_a_client_that_leaves_meanwhile_is_logged(tmp_path: Path) -> None:
    with silent_target() as silent, Gateway(tcp_config(silent), tmp_path) as gateway:
        reset(connected(gateway.port()))
        record = gateway.wait_for_record(fault="client_left")
        assert (record["status"], record["upstream_s"]) == (499, None)


def test_a_stop_does_not_wait_for_a_target(tmp_path: Path) -> None:
    """What is being connected is no tunnel, and has no more than the time of requests."""
    with silent_target() as silent:
        config = {**tcp_config(silent, timeouts={"connect": "30s"}), "timeouts": {"drain": {"requests": "100ms"}}}
        gateway = Gateway(config, tmp_path)
        with connected(gateway.port()) as client:
            client.sendall(b"x")  # it is accepted, and not in the queue
            gateway.stop()
            assert is_reset(client)
        gateway.wait_for_record(fault="gateway_stopped")
        assert re.search(r"drained 0 requests in .* s, 1 cut$", gateway.stderr.text(), re.M)


@pytest.mark.parametrize("ends_first", [False, True], ids=["open", "half closed"])
@pytest.mark.parametrize("by", ["client", "service"])
def test_what_a_socket_does_not_take_waits_and_arrives(
    target: TcpTarget, tmp_path: Path, by: str, ends_first: bool
) -> None:
    """Also where the other direction has ended, or ends behind it."""
    content = os.urandom(1 << 16) * (MUCH >> 16)
    with (
        Gateway(tcp_config(target), tmp_path) as gateway,
        connected(gateway.port()) as client,
        target.accept() as service,
    ):
        sender, receiver = (client, service) if by == "client" else (service, client)
        sender.sendall(b"begin")
        assert read_exactly(receiver, 5) == b"begin"
        if ends_first:
            receiver.sendall(b"last words")
            receiver.shutdown(socket.SHUT_WR)
            assert read_all(sender) == b"last words"
        sender.settimeout(0.2)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < len(content):
                sent += sender.send(content[sent : sent + 7_001])
        assert sent < len(content)  # so it was held up
        sender.settimeout(DEADLINE)
        rest = threading.Thread(
            target=lambda: (sender.sendall(content[sent:]), sender.shutdown(socket.SHUT_WR)), daemon=True
        )
        rest.start()
        assert read_all(receiver) == content
        rest.join()
        if not ends_first:
            receiver.sendall(b"answer")
            assert read_exactly(sender, 6) == b"answer"
            receiver.close()
        up, down = (5 + len(content), 10 if ends_first else 6)
        told = {"request_bytes": up, "response_bytes": down}
        if by == "service":
            told = {"request_bytes": down, "response_bytes": up}
        gateway.wait_for_record(**told, status=200, fault=None)


def test_small_pieces_do_not_wait_for_one_another(target: TcpTarget, tmp_path: Path) -> None:
    """TCP_NODELAY on both sides: Nagle's algorithm would hold the second piece until the first is acknowledged."""
    with (
        Gateway(tcp_config(target), tmp_path) as gateway,
        connected(gateway.port()) as client,
        target.accept() as service,
    ):
        pid = gateway.worker_pids[0]
        client.sendall(b"x")
        assert service.recv(1) == b"x"
        for end in (client, service):
            assert nodelay_of(pid, end.getsockname()[1])


def nodelay_of(pid: int, remote_port: int) -> bool:
    """Whether a process has TCP_NODELAY set on its connection with this remote port."""
    pidfd = os.pidfd_open(pid)
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            if not os.readlink(link).startswith("socket:"):
                continue
            with socket.socket(fileno=_copy_of(pidfd, int(link.name))) as copy, contextlib.suppress(OSError):
                name = copy.getpeername()
                if isinstance(name, tuple) and name[1] == remote_port:
                    return copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    finally:
        os.close(pidfd)
    raise AssertionError("there is no such connection")


def _copy_of(pidfd: int, number: int) -> int:
    """pidfd_getfd(2), which the module os does not have."""
    libc = ctypes.CDLL(None, use_errno=True)
    copied: int = libc.syscall(438, pidfd, number, 0)
    if copied < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return copied


# --- unix sockets ---


@pytest.fixture
def unix_target(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "service.sock"))
        listening.listen()
        listening.settimeout(DEADLINE)
        yield listening


@pytest.mark.parametrize("listens", ["tcp", "unix"])
@pytest.mark.parametrize("proxy_protocol", [None, "v1", "v2"])
def test_a_unix_socket_is_a_target(
    unix_target: socket.socket, tmp_path: Path, listens: str, proxy_protocol: str | None
) -> None:
    """Both ways, with half-close, and with the header that tells of the client; one without an address is unknown."""
    url = f"unix:{unix_target.getsockname()}"
    listener = {} if listens == "tcp" else {"address": f"unix:{tmp_path}/gateway.sock"}
    with Gateway(tcp_config(url, listener, proxy_protocol=proxy_protocol), tmp_path) as gateway:
        with connect(gateway.address(), DEADLINE) as client:
            service, _ = unix_target.accept()
            service.settimeout(DEADLINE)
            with service:
                expected = b""
                if proxy_protocol == "v1":
                    expected = b"PROXY UNKNOWN\r\n"
                    if listens == "tcp":
                        here, there = client.getsockname(), client.getpeername()
                        expected = f"PROXY TCP4 {here[0]} {there[0]} {here[1]} {there[1]}\r\n".encode()
                elif proxy_protocol == "v2":
                    expected = b"\r\n\r\n\0\r\nQUIT\n" + (b"\x21\x11" if listens == "tcp" else b"\x21\x00")
                assert read_exactly(service, len(expected)) == expected
                if proxy_protocol == "v2":
                    length = int.from_bytes(read_exactly(service, 2))
                    assert len(read_exactly(service, length)) == length
                client.sendall(b"question")
                client.shutdown(socket.SHUT_WR)
                assert read_all(service) == b"question"
                service.sendall(b"answer")
                service.close()
                assert read_all(client) == b"answer"
        record = gateway.wait_for_record(request_bytes=8, response_bytes=6)
        assert (record["status"], record["target"]) == (200, url)
        assert record["client"] == ("127.0.0.1" if listens == "tcp" else "unix:")


def test_a_unix_socket_that_nobody_listens_at_is_left_for_the_next(unix_target: socket.socket, tmp_path: Path) -> None:
    config = tcp_config(f"unix:{tmp_path}/gone.sock", health_checks={"passive": None})
    config["upstreams"]["service"]["targets"].append(f"unix:{unix_target.getsockname()}")
    with Gateway(config, tmp_path) as gateway:
        for _ in range(2):
            with connected(gateway.port()) as client:
                service, _ = unix_target.accept()
                with service:
                    service.sendall(b"here")
                    assert read_exactly(client, 4) == b"here"
        assert gateway.wait_for_record(retries=1)["status"] == 200
