"""Two thousand clients that begin with TLS and do not go on: what they cost while they stay, and afterwards."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.support.certificates import Certificates
from tests.support.client import Client, connect
from tests.support.gateway import Gateway, wait_until
from tests.support.resident import held_by
from tests.support.secured import client_hello

pytestmark = pytest.mark.usefixtures("new_programs")  # what was forked shares pages, which count as its own

CLIENTS = 2_000
MIB = 1 << 20
BEHIND = 8 * MIB

HELLO = client_hello()
HALF = HELLO[: len(HELLO) // 2]
CRUMBS = b"".join(b"\x16\x03\x01\x00\x01" + HELLO[at : at + 1] for at in range(5, len(HELLO) // 2))
ENDLESS = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03" + b"x" * 16_000


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    certificate, key = Certificates(tmp_path).issue("a.test")
    tls = {"certificates": [{"certificate": certificate, "key": key}], "handshake_timeout": "5m"}
    config = {
        "workers": 1,
        "listeners": {"main": {"address": "127.0.0.1:0", "tls": tls}, "plain": {"address": "127.0.0.1:0"}},
        "routes": [{"name": "here", "respond": {"body": "here"}}],
    }
    return Gateway(config, tmp_path)


@pytest.mark.parametrize(
    ("sent", "each"),
    [
        pytest.param(HALF, 4_096, id="half a hello"),
        pytest.param(CRUMBS, 8_192, id="half a hello in records of a byte"),
        pytest.param(ENDLESS, 24_576, id="most of the longest hello"),
        pytest.param(HELLO, 65_536, id="a handshake that is not answered"),
    ],
)
def test_clients_that_stall_in_their_handshake_leave_nothing_behind(gateway: Gateway, sent: bytes, each: int) -> None:
    """Half a ClientHello costs little more than its bytes; and whatever a crowd had is given back when it has gone."""
    with gateway, contextlib.ExitStack() as crowd, Client(gateway.address("plain")) as other:
        (worker,) = gateway.worker_pids
        other.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        before = held_by(worker)
        clients = [crowd.enter_context(connect(gateway.address())) for _ in range(CLIENTS)]
        for client in clients:
            client.sendall(sent)
        settle(other)
        assert held_by(worker) - before < CLIENTS * each
        crowd.close()
        wait_until(lambda: held_by(worker) - before < BEHIND, "the memory of the crowd to be given back")
        settle(other)


def settle(other: Client) -> None:
    """What others have sent before is read when one that comes later is answered, as often as reading takes turns."""
    for _ in range(20):
        assert other.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").body == b"here"
