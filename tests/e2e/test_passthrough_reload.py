"""TLS listeners that pass some names through, and a reload that changes which."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

import pytest

from fastgw.downstream.tcp.connection import PASSED_SINCE
from tests.e2e.test_reload import ANYWHERE, Reloadable
from tests.support.certificates import Certificates, client_tls
from tests.support.tcp import connected, read_all, tcp_target


@pytest.mark.landing
def test_what_was_encrypted_for_the_gateway_is_not_sent_to_a_target_that_expects_tls(tmp_path: Path) -> None:
    """The name is passed through since a reload between the client's hello and the end of its handshake."""
    authority = Certificates(tmp_path)
    certificate, key = authority.issue("a.test", "b.test")
    with tcp_target() as ended, tcp_target() as passed:
        listener = {
            **ANYWHERE,
            "protocol": "tcp",
            "tls": {"certificates": [{"certificate": certificate, "key": key}]},
            "routes": [{"sni": ["a.test"], "upstream": "ended"}, {"sni": ["b.test"], "upstream": "ended"}],
        }
        config = {
            "workers": 1,
            "access_logs": [{}],
            "listeners": {"main": listener},
            "upstreams": {"ended": {"targets": [ended.url]}, "passed": {"targets": [passed.url]}},
        }
        with Reloadable(config, tmp_path) as gateway, connected(gateway.port()) as client:
            received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
            session = client_tls(authority).wrap_bio(received, sent, server_hostname="a.test")
            with contextlib.suppress(ssl.SSLWantReadError):
                session.do_handshake()
            client.sendall(sent.read())
            while True:  # until the client's side of the handshake is complete, but not sent
                received.write(client.recv(65536))
                with contextlib.suppress(ssl.SSLWantReadError):
                    session.do_handshake()
                    break
            changed = {"sni": ["a.test"], "upstream": "passed", "passthrough": True}
            gateway.change(listeners={"main": {**listener, "routes": [changed, listener["routes"][1]]}})
            gateway.reload()
            session.write(b"for the gateway alone")
            client.sendall(sent.read())
            with contextlib.suppress(ConnectionResetError):
                read_all(client)
            record = gateway.wait_for_record(host="a.test")
            assert (record["fault"], record["fault_detail"]) == ("route_not_found", PASSED_SINCE)
            assert record["target"] is None
        assert passed.has_nobody()
