"""Listeners of TCP: bytes pass as they are, each direction ends by itself, a reset arrives as a reset, times and limits
hold, and each connection is logged once."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastgw.downstream.tcp.connection import RESET_AFTER_END
from fastgw.eventloop.body_reads import READ_BYTES
from tests.support.gateway import Gateway, wait_until
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

SHORT = {"tunnel_idle": "300ms"}


@pytest.fixture(scope="module")
def target() -> Iterator[TcpTarget]:
    with tcp_target() as made:
        yield made


@pytest.fixture(scope="module")
def gateway(target: TcpTarget, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(tcp_config(target), tmp_path_factory.mktemp("tcp")) as running:
        yield running


@pytest.fixture
def pair(gateway: Gateway, target: TcpTarget) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection through the gateway."""
    with connected(gateway.port()) as client, target.accept() as service:
        yield client, service


def test_bytes_pass_both_ways_as_they_are(pair: tuple[socket.socket, socket.socket]) -> None:
    client, service = pair
    every_byte = bytes(range(256)) + b"GET / HTTP/1.1\r\n\r\n\x16\x03\x01"
    for number in range(3):
        client.sendall(every_byte + b"%d" % number)
        assert read_exactly(service, len(every_byte) + 1) == every_byte + b"%d" % number
        service.sendall(b"%d" % number + every_byte)
        assert read_exactly(client, len(every_byte) + 1) == b"%d" % number + every_byte


def test_a_service_may_speak_first(gateway: Gateway, target: TcpTarget) -> None:
    """As MySQL, SMTP and SSH do."""
    with connected(gateway.port()) as client, target.accept() as service:
        service.sendall(b"220 ready\r\n")
        assert read_exactly(client, 11) == b"220 ready\r\n"


def test_the_client_may_end_its_direction_alone(pair: tuple[socket.socket, socket.socket]) -> None:
    """RFC 9293 section 3.6: a connection half closed goes on the other way."""
    client, service = pair
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert read_all(service) == b"question"
    service.sendall(b"answer")
    assert read_exactly(client, 6) == b"answer"
    service.close()
    assert client.recv(1) == b""


def test_the_service_may_end_its_direction_alone(pair: tuple[socket.socket, socket.socket]) -> None:
    client, service = pair
    service.sendall(b"answer")
    service.shutdown(socket.SHUT_WR)
    assert read_all(client) == b"answer"
    client.sendall(b"more")
    assert read_exactly(service, 4) == b"more"
    client.close()
    assert service.recv(1) == b""


def test_what_was_sent_before_the_end_and_while_connecting_arrives(gateway: Gateway, target: TcpTarget) -> None:
    """As `echo question | nc` does."""
    with connected(gateway.port()) as client:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        with target.accept() as service:
            assert read_all(service) == b"question"
            service.sendall(b"answer")
            service.close()
            assert read_all(client) == b"answer"


def test_a_reset_of_the_client_arrives_as_a_reset(gateway: Gateway, pair: tuple[socket.socket, socket.socket]) -> None:
    client, service = pair
    client.sendall(b"x")
    assert service.recv(1) == b"x"
    reset(client)
    assert is_reset(service)
    assert gateway.wait_for_record(fault="client_left", status=200)["fault_detail"] == "reset"


def test_a_reset_of_the_service_arrives_as_a_reset(gateway: Gateway, pair: tuple[socket.socket, socket.socket]) -> None:
    client, service = pair
    service.sendall(b"x")
    assert client.recv(1) == b"x"
    reset(service)
    assert is_reset(client)
    assert gateway.wait_for_record(fault="connection_lost", status=200)["fault_detail"] == "reset"


def test_a_reset_of_a_service_that_has_answered_a_client_that_has_ended_is_no_fault(
    target: TcpTarget, tmp_path: Path
) -> None:
    """As PostgreSQL does, where a client sends `close_notify` after its last message. A reset it is for the client."""
    with Gateway(tcp_config(target), tmp_path) as gateway:
        for answer in (b"answer", b""):
            with connected(gateway.port()) as client, target.accept() as service:
                client.sendall(b"question")
                assert read_exactly(service, 8) == b"question"
                service.sendall(answer)
                assert read_exactly(client, len(answer)) == answer
                client.shutdown(socket.SHUT_WR)
                assert service.recv(1) == b""
                reset(service)
                assert is_reset(client)
            record = gateway.wait_for_record(response_bytes=len(answer))
            told = record["fault"], record["fault_detail"]
            assert told == ((None, RESET_AFTER_END) if answer else ("connection_lost", "reset"))


@pytest.mark.parametrize("sender", ["client", "service"])
def test_a_reset_behind_much_data_is_no_end(pair: tuple[socket.socket, socket.socket], sender: str) -> None:
    """Otherwise a transfer that was cut off would look complete. Much data is spliced, not copied."""
    from_end, to_end = pair if sender == "client" else pair[::-1]
    for _ in range(4):
        from_end.sendall(b"x" * 1_000_000)
        assert len(read_exactly(to_end, 1_000_000)) == 1_000_000
    reset(from_end)
    assert is_reset(to_end)


def test_much_passes_whole_at_different_speeds(target: TcpTarget, tmp_path: Path) -> None:
    """More than all buffers hold, both ways at once; whoever reads late gets all of it."""
    size = 24 * 1024 * 1024
    sent = os.urandom(1024 * 1024) * (size >> 20)
    with (
        Gateway(tcp_config(target), tmp_path) as gateway,
        connected(gateway.port()) as client,
        target.accept() as service,
    ):
        got: dict[str, bytes] = {}

        def send(end: socket.socket) -> None:
            end.sendall(sent)
            end.shutdown(socket.SHUT_WR)

        def receive(name: str, end: socket.socket) -> None:
            got[name] = read_all(end)

        senders = [threading.Thread(target=send, args=(end,)) for end in (client, service)]
        for each in senders:
            each.start()
        # Nobody reads until both senders are held up.
        wait_until(lambda: not _moves(gateway.worker_pids[0]), "both directions to be held up")
        readers = [threading.Thread(target=receive, args=(name, end)) for name, end in (("c", client), ("s", service))]
        for each in readers:
            each.start()
        for each in (*senders, *readers):
            each.join(30)
        assert got["c"] == sent
        assert got["s"] == sent
        record = gateway.wait_for_record(status=200)
        assert (record["request_bytes"], record["response_bytes"]) == (size, size)


def _moves(pid: int) -> bool:
    """Whether a process has moved bytes since it was asked last."""
    said = Path(f"/proc/{pid}/io").read_text()
    changed = _SEEN.get(pid) != said
    _SEEN[pid] = said
    return changed


_SEEN: dict[int, str] = {}


def test_each_connection_is_one_line_in_the_log(gateway: Gateway, pair: tuple[socket.socket, socket.socket]) -> None:
    client, service = pair
    client.sendall(b"twelve bytes")
    read_exactly(service, 12)
    service.sendall(b"three")
    read_exactly(client, 5)
    client.close()
    service.close()
    record = gateway.wait_for_record(request_bytes=12, response_bytes=5)
    assert record["listener"] == "main"
    assert record["route"] == "listener/main"
    assert record["upstream"] == "service"
    assert record["protocol"] == "TCP"
    assert record["scheme"] == "tcp"
    assert record["client"] == "127.0.0.1"
    assert (record["method"], record["host"], record["path"]) == (None, None, None)
    assert record["status"] == 200
    assert record["fault"] is None
    assert record["duration_s"] > record["upstream_s"] > 0


def test_a_service_that_refuses_is_told_by_a_reset_and_logged(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with Gateway(tcp_config(url, retries={"max": 0}), tmp_path) as gateway:
            assert connects_and_is_reset(gateway.port())
            record = gateway.wait_for_record(fault="connect_refused")
            assert (record["status"], record["retries"], record["fault_detail"]) == (502, 0, "ECONNREFUSED")


def test_another_target_is_tried_when_one_refuses(target: TcpTarget, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        config = tcp_config(target, health_checks={"passive": None})
        config["upstreams"]["service"]["targets"].insert(0, f"tcp://127.0.0.1:{taken.getsockname()[1]}")
        with Gateway(config, tmp_path) as gateway:
            for _ in range(2):
                with connected(gateway.port()) as client, target.accept() as service:
                    service.sendall(b"here")
                    assert read_exactly(client, 4) == b"here"
            assert gateway.wait_for_record(retries=1)["status"] == 200


def test_a_silent_connection_is_closed(target: TcpTarget, tmp_path: Path) -> None:
    with (
        Gateway(tcp_config(target, timeouts=SHORT), tmp_path) as gateway,
        connected(gateway.port()) as client,
        target.accept() as service,
    ):
        client.shutdown(socket.SHUT_WR)  # half closed it is as silent
        assert service.recv(1) == b""
        assert client.recv(1) == b""
        assert gateway.wait_for_record(fault="tunnel_idle")["status"] == 200


@pytest.mark.parametrize("timeouts", [SHORT, {"total": "600ms"}], ids=["tunnel_idle", "total"])
def test_a_time_that_cuts_data_off_ends_in_a_reset(target: TcpTarget, tmp_path: Path, timeouts: dict[str, str]) -> None:
    """An end would look as if the client had got everything."""
    with (
        Gateway(tcp_config(target, timeouts=timeouts), tmp_path) as gateway,
        connected(gateway.port()) as client,
        target.accept() as service,
    ):
        with pytest.raises(ConnectionResetError):
            service.sendall(bytes(64 << 20))  # more than all sockets hold
        assert gateway.wait_for_record(status=200)["fault"] in ("tunnel_idle", "tunnel_expired")
        with pytest.raises(ConnectionResetError):
            read_all(client)


def test_a_connection_has_a_total_time(target: TcpTarget, tmp_path: Path) -> None:
    with (
        Gateway(tcp_config(target, timeouts={"total": "400ms"}), tmp_path) as gateway,
        connected(gateway.port()) as client,
        target.accept() as service,
    ):
        service.settimeout(0.05)
        while True:  # it is never silent
            client.sendall(b"x")
            try:
                if not service.recv(1):
                    break
            except TimeoutError:
                continue
            except ConnectionResetError:
                break
        assert gateway.wait_for_record(fault="tunnel_expired")["status"] == 200


def test_limits_of_connections_hold(target: TcpTarget, tmp_path: Path) -> None:
    with (
        Gateway({**tcp_config(target), "limits": {"connections_per_ip": 1}}, tmp_path) as gateway,
        connected(gateway.port()),
        target.accept(),
        connected(gateway.port()) as second,
    ):
        assert second.recv(1) == b""
        assert gateway.wait_for_record(fault="too_many_connections")["status"] == 429


def test_an_upstream_takes_what_its_clients_may_have(target: TcpTarget, tmp_path: Path) -> None:
    """The default of `pool.max_connections` is for requests: a connection of TCP is never lent to a second client."""
    with Gateway(tcp_config(target, pool={"pending_timeout": "1ms"}), tmp_path) as gateway, ExitStack() as stack:
        for _ in range(1030):
            client = stack.enter_context(connected(gateway.port()))
            service = stack.enter_context(target.accept())
        client.sendall(b"x")
        assert read_exactly(service, 1) == b"x"


def test_the_connections_to_an_upstream_have_a_limit(target: TcpTarget, tmp_path: Path) -> None:
    """Who finds no place waits for one, and the place of a connection that has ended is free."""
    config = tcp_config(target, pool={"max_connections": 1, "pending_timeout": "5s"})
    with Gateway(config, tmp_path) as gateway, connected(gateway.port()) as first:
        service = target.accept()
        with connected(gateway.port()) as second:
            second.sendall(b"waits")
            first.close()
            service.close()
            with target.accept() as served:
                assert read_exactly(served, 5) == b"waits"


def test_the_place_of_a_connection_that_the_service_has_ended_is_free(target: TcpTarget, tmp_path: Path) -> None:
    """An idle client does not notice that its service has gone: after a restart such clients would hold all places. The
    place is released once only, whatever the client does later, and it still reaches a service that reads."""
    much = 4 * READ_BYTES
    config = tcp_config(target, pool={"max_connections": 1, "pending_timeout": "300ms"})
    with Gateway(config, tmp_path) as gateway:
        with connected(gateway.port()) as first, target.accept() as gone:
            gone.sendall(b"bye")
            gone.shutdown(socket.SHUT_WR)
            assert read_all(first) == b"bye"
            with connected(gateway.port()) as second, target.accept() as served:
                assert connects_and_is_reset(gateway.port())
                first.sendall(b"x" * much)
                first.shutdown(socket.SHUT_WR)
                assert read_all(gone) == b"x" * much
                gateway.wait_for_record(request_bytes=much, response_bytes=3)
                second.sendall(b"here")
                assert read_exactly(served, 4) == b"here"
                assert connects_and_is_reset(gateway.port())  # it has not released the place of the second one
        gateway.wait_for_record(request_bytes=4)
        with connected(gateway.port()), target.accept():
            pass


def test_a_target_that_is_killed_ends_its_connections(tmp_path: Path) -> None:
    """kill -9 in the middle of a connection: the kernel ends it, and the client is told."""
    readable, writable = os.pipe()
    pid = os.fork()
    if not pid:
        listening = socket.create_server(("127.0.0.1", 0))
        os.write(writable, b"%d\n" % listening.getsockname()[1])
        taken, _ = listening.accept()
        taken.sendall(b"here")
        signal.pause()
        os._exit(0)
    port = int(os.read(readable, 16))
    with Gateway(tcp_config(f"tcp://127.0.0.1:{port}"), tmp_path) as gateway, connected(gateway.port()) as client:
        assert read_exactly(client, 4) == b"here"
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert client.recv(1) == b""
    os.close(readable)
    os.close(writable)


def test_connections_live_on_over_a_reload_and_have_their_time_at_the_end(target: TcpTarget, tmp_path: Path) -> None:
    """A reload that takes the upstream away does not end what goes there; a stop waits `drain.tunnels` for it."""
    file = tmp_path / "gateway.yaml"
    timeouts = "timeouts: {drain: {requests: 100ms, tunnels: 20s}}"
    text = (
        "version: 1\nworkers: 1\nstatus: null\nadmin: null\n"
        + timeouts
        + "\nlisteners: {main: {address: '127.0.0.1:0', protocol: tcp, upstream: service}}\n"
        + "upstreams: {service: {targets: ['URL']}}\n"
    )
    with tcp_target() as other:
        file.write_text(text.replace("URL", target.url))
        gateway = Gateway(file, tmp_path)
        with connected(gateway.port()) as client, target.accept() as service:
            client.sendall(b"1")
            assert service.recv(1) == b"1"
            file.write_text(text.replace("URL", other.url))
            gateway.signal(signal.SIGHUP)
            gateway.stderr.wait_for(lambda line: b" reloaded: " in line, raw=True)
            with connected(gateway.port()) as later, other.accept() as served:
                served.sendall(b"new")
                assert read_exactly(later, 3) == b"new"
            client.sendall(b"2")
            assert service.recv(1) == b"2"
            gateway.signal(signal.SIGTERM)
            gateway.stderr.wait_for(lambda line: b" draining: " in line, raw=True)
            service.sendall(b"3")
            assert client.recv(1) == b"3"
            client.close()
            assert service.recv(1) == b""
            service.close()
            assert gateway.wait() == 0


def test_a_stop_says_that_it_has_cut_a_connection(target: TcpTarget, tmp_path: Path) -> None:
    config = {**tcp_config(target), "timeouts": {"drain": {"requests": "100ms", "tunnels": "100ms"}}}
    gateway = Gateway(config, tmp_path)
    with connected(gateway.port()) as client, target.accept() as service:
        client.sendall(b"1")
        assert service.recv(1) == b"1"
        gateway.stop()
        assert is_reset(client)
    gateway.wait_for_record(fault="gateway_stopped")
    assert re.search(r"drained 0 requests in .* s, 1 cut$", gateway.stderr.text(), re.M)


def test_metrics_count_connections(target: TcpTarget, tmp_path: Path) -> None:
    config = {**tcp_config(target), "status": {"address": "127.0.0.1:0"}}
    with Gateway(config, tmp_path) as gateway:
        with connected(gateway.port()) as client, target.accept() as service:
            client.sendall(b"five!")
            read_exactly(service, 5)
        gateway.wait_for_record(request_bytes=5)
        with connected(int(str(gateway.ready["status"]).rpartition(":")[2])) as scrape:
            scrape.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            told = read_all(scrape).decode()
        assert 'fastgw_requests_total{listener="main",method="tcp",route="listener/main",status="200"} 1' in told
        assert 'fastgw_request_bytes_total{route="listener/main"} 5' in told


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["address", "name"])
def test_upstreams_have_their_shares_of_the_connections(target: TcpTarget, tmp_path: Path, host: str) -> None:
    """Connections of the share of an upstream that is unavailable are reset, whatever the other one could serve."""
    config = tcp_config(target, {"upstream": {"service": 0, "gone": 1}})
    config["upstreams"]["gone"] = {"targets": [{"url": f"tcp://{host}:1", "weight": 0}]}
    config["listeners"]["good"] = {**config["listeners"]["main"], "upstream": {"service": 1, "gone": 0}}
    with Gateway(config, tmp_path) as gateway:
        for _ in range(3):
            assert connects_and_is_reset(gateway.port())
            with connected(gateway.port("good")) as client, target.accept() as service:
                service.sendall(b"220")
                assert read_exactly(client, 3) == b"220"
