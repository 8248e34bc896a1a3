"""Listeners of UDP: a session per client address and port, its target, bounds and times; and real DNS."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import Gateway, wait_until
from tests.support.own_ports import own_port
from tests.support.peer import DEADLINE
from tests.support.udp import UdpTarget, client_of


@pytest.fixture
def target() -> Iterator[UdpTarget]:
    made = UdpTarget()
    yield made
    made.socket.close()


def config(*urls: str, address: str = "127.0.0.1:0", workers: int = 1, **upstream: Any) -> dict[str, Any]:
    return {
        "workers": workers,
        "listeners": {"main": {"address": address, "protocol": "udp", "upstream": "service"}},
        "upstreams": {"service": {"targets": [*urls], **upstream}},
    }


def test_datagrams_go_and_come_as_they_are(target: UdpTarget, tmp_path: Path) -> None:
    with Gateway(config(target.url), tmp_path) as gateway, client_of(gateway) as client:
        for payload in (b"", b"x", b"y" * 1472, b"z" * 60_000):
            client.send(payload)
            assert target.echo()[0] == payload
            assert client.recv(65_535) == payload


def test_a_session_is_an_address_and_port_and_keeps_its_target(tmp_path: Path) -> None:
    targets = UdpTarget(), UdpTarget()
    with Gateway(config(*(each.url for each in targets)), tmp_path) as gateway:
        for _ in range(4):
            with client_of(gateway) as client:
                client.send(b"first")
                served = next(each for each in targets if each.has_one())
                peers = {served.echo()[1]}
                assert client.recv(9) == b"first"
                for _ in range(3):
                    client.send(b"more")
                    peers.add(served.echo()[1])
                    assert client.recv(9) == b"more"
                assert len(peers) == 1  # one socket for the session
    for each in targets:
        each.socket.close()


def test_nobody_else_can_answer(target: UdpTarget, tmp_path: Path) -> None:
    with Gateway(config(target.url), tmp_path) as gateway, client_of(gateway) as client:
        client.send(b"question")
        _, session = target.socket.recvfrom(100)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"forged", session)
        target.socket.sendto(b"answer", session)
        assert client.recv(100) == b"answer"


def test_answers_come_from_the_address_that_was_asked(target: UdpTarget, tmp_path: Path) -> None:
    """A listener on every address: a client takes no answer from another one (RFC 1123 section 6.1.2.1)."""
    with Gateway(config(target.url, address="0.0.0.0:0"), tmp_path) as gateway:
        for host in ("127.0.0.1", "127.0.0.77"):
            with client_of(gateway, host) as client:
                client.send(b"x")
                target.echo()
                assert client.recv(9) == b"x"


def test_one_client_socket_has_the_answers_of_each_address_from_that_address(target: UdpTarget, tmp_path: Path) -> None:
    """Each address of the gateway that it uses is a session of its own."""
    with (
        Gateway(config(target.url, address="0.0.0.0:0"), tmp_path) as gateway,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(DEADLINE)
        sessions = []
        for host in ("127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.3"):
            client.sendto(host.encode(), (host, gateway.port()))
            sessions.append(target.echo()[1])
            assert client.recvfrom(99) == (host.encode(), (host, gateway.port()))
        one, two, again, three = sessions
        assert one == again
        assert len({one, two, three}) == 3


def test_a_silent_session_ends_and_is_logged_once(target: UdpTarget, tmp_path: Path) -> None:
    with (
        Gateway(config(target.url, timeouts={"tunnel_idle": "200ms"}), tmp_path) as gateway,
        client_of(gateway) as client,
    ):
        client.send(b"12345")
        target.echo()
        assert client.recv(9) == b"12345"
        record = gateway.wait_for_record(protocol="UDP")
        assert (record["scheme"], record["status"], record["fault"]) == ("udp", 200, None)
        assert (record["request_bytes"], record["response_bytes"]) == (5, 5)
        assert record["target"] == f"127.0.0.1:{target.port}"


def test_a_session_without_responses_is_no_fault(target: UdpTarget, tmp_path: Path) -> None:
    """Many protocols have none, such as syslog, and the gateway does not know the protocol."""
    with (
        Gateway(config(target.url, timeouts={"tunnel_idle": "200ms"}), tmp_path) as gateway,
        client_of(gateway) as client,
    ):
        client.send(b"<13>x")
        assert target.socket.recv(9) == b"<13>x"
        record = gateway.wait_for_record(protocol="UDP")
        assert (record["status"], record["fault"], record["fault_detail"]) == (200, None, None)
        assert (record["request_bytes"], record["response_bytes"], record["upstream_s"]) == (5, 0, None)
        assert record["target"] == f"127.0.0.1:{target.port}"


def test_a_session_ends_with_its_maximum_duration_although_datagrams_come(target: UdpTarget, tmp_path: Path) -> None:
    """The next datagram of the client begins another session.

    An answer that comes as the session ends is lost, so the client awaits none.
    """
    timeouts = {"tunnel_idle": "1h", "total": "300ms"}
    with Gateway(config(target.url, timeouts=timeouts), tmp_path) as gateway, client_of(gateway) as client:

        def session() -> Any:
            client.send(b"x")
            return target.echo()[1]

        first = session()
        wait_until(lambda: session() != first, "another session")
        assert gateway.wait_for_record(fault="tunnel_expired")["protocol"] == "UDP"


def test_another_target_gets_what_the_first_has_refused(target: UdpTarget, tmp_path: Path) -> None:
    """Two targets of three do not exist: whichever is selected first, each datagram arrives once and is answered."""
    gone = [f"udp://127.0.0.1:{own_port()}" for _ in range(2)]
    settings = config(*gone, target.url, retries={"max": 2}, health_checks={"passive": None})
    with Gateway(settings, tmp_path) as gateway:
        for number in range(3):
            with client_of(gateway) as client:
                payload = b"datagram %d" % number
                client.send(payload)
                assert target.echo()[0] == payload
                assert client.recv(99) == payload
        target.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            target.socket.recv(9)


def test_a_session_whose_targets_all_refuse_ends(tmp_path: Path) -> None:
    gone = [f"udp://127.0.0.1:{own_port()}" for _ in range(2)]
    with Gateway(config(*gone, retries={"max": 5}), tmp_path) as gateway, client_of(gateway) as client:
        client.send(b"x")
        record = gateway.wait_for_record(fault="connect_refused")
        assert (record["status"], record["retries"] >= 1) == (502, True)


def test_a_target_that_is_not_there_is_logged(tmp_path: Path) -> None:
    settings = config(f"udp://127.0.0.1:{own_port()}")
    with Gateway(settings, tmp_path) as gateway, client_of(gateway) as client:
        client.send(b"x")
        assert gateway.wait_for_record(fault="connect_refused")["status"] == 502


def test_sessions_have_a_bound_over_all_workers(target: UdpTarget, tmp_path: Path) -> None:
    with Gateway({**config(target.url, workers=2), "limits": {"udp_sessions": 3}}, tmp_path) as gateway:
        clients = []
        for number in range(12):
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            client.connect(("127.0.0.1", gateway.port()))
            client.send(b"%d" % number)
            clients.append(client)
        gateway.stderr.wait_for(lambda line: b"limits.udp_sessions is reached" in line)
        while target.has_one():
            target.echo()
        assert sum(bool(select.select([client], [], [], 0.1)[0]) for client in clients) == 3  # the others have ended
        for client in clients:
            client.close()


def test_forged_addresses_leave_files_for_connections(target: UdpTarget, tmp_path: Path) -> None:
    """A process has files for so many sessions only; beyond that nobody is blamed, and other listeners serve."""
    made = config(target.url)
    with socket.create_server(("127.0.0.1", 0)) as service, contextlib.ExitStack() as opened:
        service.settimeout(DEADLINE)
        made["listeners"]["tcp"] = {"address": "127.0.0.1:0", "protocol": "tcp", "upstream": "tcp"}
        made["upstreams"]["tcp"] = {"targets": [f"tcp://127.0.0.1:{service.getsockname()[1]}"]}
        gateway = opened.enter_context(Gateway(made, tmp_path, launcher=["prlimit", "--nofile=200:200"]))
        for number in range(300):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.bind((f"127.0.{1 + number // 250}.{1 + number % 250}", 0))
                client.sendto(b"x", ("127.0.0.1", gateway.port()))
        gateway.stderr.wait_for(lambda line: b"file descriptors are reserved for connections" in line)
        client = opened.enter_context(socket.create_connection(("127.0.0.1", gateway.port("tcp")), DEADLINE))
        served = opened.enter_context(service.accept()[0])
        served.sendall(b"hello")
        assert client.recv(9) == b"hello"
        assert {record["fault"] for record in gateway.records} <= {None}
        gateway.signal(signal.SIGINT)


def test_a_datagram_that_is_too_long_is_dropped_alone(target: UdpTarget, tmp_path: Path) -> None:
    """IPv6 carries 20 bytes more than IPv4: no client may end its session, or have a target ejected, by that."""
    made = config(target.url, address="[::1]:0", health_checks={"passive": {"failures": 1}})
    with Gateway(made, tmp_path) as gateway, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.connect(("::1", gateway.port()))
        client.settimeout(DEADLINE)
        peers = set()
        for payload in (b"a", b"z" * 65_527, b"b"):
            client.send(payload)
            if len(payload) == 1:
                peers.add(target.echo()[1])
                assert client.recv(9) == payload
        assert len(peers) == 1
        assert gateway.records == []


def test_reload_keeps_sessions_and_a_stop_waits_for_the_answer(target: UdpTarget, tmp_path: Path) -> None:
    other = UdpTarget()
    file = tmp_path / "gateway.yaml"
    text = (
        "version: 1\nworkers: 1\nstatus: null\nadmin: null\n"
        "listeners: {main: {address: '127.0.0.1:0', protocol: udp, upstream: service}}\n"
        "upstreams: {service: {targets: ['URL']}}\n"
    )
    file.write_text(text.replace("URL", target.url))
    gateway = Gateway(file, tmp_path)
    with client_of(gateway) as client, client_of(gateway) as later:
        client.send(b"1")
        target.echo()
        assert client.recv(9) == b"1"
        file.write_text(text.replace("URL", other.url))
        gateway.signal(signal.SIGHUP)
        gateway.stderr.wait_for(lambda line: b" reloaded: " in line, raw=True)
        later.send(b"new")
        assert other.echo()[0] == b"new"
        assert later.recv(9) == b"new"
        client.send(b"2")
        _, session = target.socket.recvfrom(9)
        gateway.signal(signal.SIGTERM)
        gateway.stderr.wait_for(lambda line: b" draining: " in line, raw=True)
        target.socket.sendto(b"late", session)
        assert client.recv(9) == b"late"
        assert gateway.wait() == 0
    other.socket.close()


def test_the_port_of_a_removed_listener_is_free(target: UdpTarget, tmp_path: Path) -> None:
    """No process keeps it, one that was started after a crash included: another program may bind it, and the gateway
    again.
    """
    file = tmp_path / "gateway.yaml"
    text = (
        "version: 1\nworkers: 2\nstatus: null\nadmin: null\nlisteners: {LISTENERS}\n"
        "upstreams: {service: {targets: ['URL']}, web: {targets: ['tcp://127.0.0.1:9']}}\n"
    ).replace("URL", target.url)
    kept = "other: {address: '127.0.0.1:0', protocol: tcp, upstream: web}"
    with_it = text.replace(
        "LISTENERS", f"main: {{address: '127.0.0.1:{own_port()}', protocol: udp, upstream: service}}, {kept}"
    )
    without_it = text.replace("LISTENERS", kept)

    def reload(wanted: str, generation: int) -> None:
        file.write_text(wanted)
        gateway.signal(signal.SIGHUP)
        gateway.stderr.wait_for(lambda line: line.startswith(b"reloaded: generation %d " % generation))

    file.write_text(with_it)
    with Gateway(file, tmp_path) as gateway, client_of(gateway) as client:
        address = client.getpeername()
        os.kill(gateway.control_pid, signal.SIGKILL)
        reload(without_it, 2)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as another:
            another.bind(address)
        reload(with_it, 3)
        client.send(b"x")
        assert target.echo()[0] == b"x"
        assert client.recv(9) == b"x"


def test_dns_by_its_own_client(tmp_path: Path) -> None:
    """dig over UDP and TCP on one port number, to a real DNS server."""
    server, dig = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin"), shutil.which("dig")
    assert server, "dnsmasq is not installed: make test installs it"
    assert dig, "dig is not installed: make test installs it"
    port, gateway_port = own_port(), own_port()
    options = ["--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--user=root"]
    options += [f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces", "--pid-file="]
    records = ["--address=/a.test/192.0.2.7", "--txt-record=long.test," + ",".join(["t" * 200] * 12)]
    process = subprocess.Popen([server, *options, *records], stderr=subprocess.DEVNULL)
    made = config(f"udp://127.0.0.1:{port}", address=f"127.0.0.1:{gateway_port}", workers=2)
    made["listeners"]["tcp"] = {"address": f"127.0.0.1:{gateway_port}", "protocol": "tcp", "upstream": "stream"}
    made["upstreams"]["stream"] = {"targets": [f"tcp://127.0.0.1:{port}"]}
    try:
        direct = [dig, "@127.0.0.1", "-p", str(port), "+short", "+tries=1", "+time=1", "a.test"]
        wait_until(lambda: _told(direct) == "192.0.2.7\n", "the DNS server")
        with Gateway(made, tmp_path):
            ask = [dig, "@127.0.0.1", "-p", str(gateway_port), "+short", "+tries=1", f"+time={DEADLINE:.0f}"]
            wait_until(lambda: _told([*ask, "a.test"]) == "192.0.2.7\n", "DNS through the gateway")
            for _ in range(20):
                assert _told([*ask, "a.test"]) == "192.0.2.7\n"
            # What does not fit a datagram is asked for again over TCP, as dig does by itself.
            assert _told([*ask, "+bufsize=512", "long.test", "txt"]).count("t" * 200) == 12
            assert _told([*ask, "+tcp", "a.test"]) == "192.0.2.7\n"
    finally:
        process.terminate()
        process.wait(DEADLINE)


def _told(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout


def test_upstreams_have_their_shares_of_the_sessions(target: UdpTarget, tmp_path: Path) -> None:
    """Datagrams of the share of an upstream that is unavailable are dropped, whatever the other one could serve."""
    made = config(target.url)
    made["upstreams"]["gone"] = {"targets": [{"url": "udp://127.0.0.1:1", "weight": 0}]}
    made["listeners"]["main"]["upstream"] = {"service": 0, "gone": 1}
    made["listeners"]["good"] = {"address": "127.0.0.1:0", "protocol": "udp", "upstream": {"service": 1, "gone": 0}}
    with (
        Gateway(made, tmp_path) as gateway,
        client_of(gateway) as lost,
        client_of(gateway, listener="good") as served,
    ):
        lost.send(b"lost")
        served.send(b"served")
        assert target.echo()[0] == b"served"
        assert served.recv(9) == b"served"
        assert not target.has_one()
