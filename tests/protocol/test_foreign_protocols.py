"""Connections that speak another protocol than the port: it is named, because a setting on either side is wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastgw.http.http2.session import PREFACE
from fastgw.net.proxy_protocol import header_v2
from tests.support.certificates import Certificates
from tests.support.faults import assert_fault
from tests.support.gateway import Gateway
from tests.support.table import for_each

REQUEST = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
PROXY_V1 = b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n"
PROXY_V2 = header_v2(("203.0.113.7", 56_324), ("192.0.2.1", 443))
HELLO = b"\x16\x03\x01\x00\x0a\x01\x00\x00\x06\x03\x03\r\n\r\n"  # with an empty line in it


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("foreign")
    certificate, key = Certificates(directory).issue("a.test")
    config = {
        "workers": 1,
        "listeners": {
            "plain": {"address": "127.0.0.1:0"},
            "proxied": {
                "address": "127.0.0.1:0",
                "proxy_protocol": "required",
                "proxy_protocol_senders": ["127.0.0.0/8"],
            },
            "tls": {"address": "127.0.0.1:0", "tls": {"certificates": [{"certificate": certificate, "key": key}]}},
        },
        "routes": [{"name": "all", "respond": {"body": "ok"}}],
    }
    with Gateway(config, directory) as gateway:
        yield gateway


@for_each(
    ("begun", "status", "named"),
    [
        (HELLO, 400, "TLS"),
        (HELLO[:9], 400, "TLS"),
        (PROXY_V1 + REQUEST, 400, "PROXY protocol"),
        (PROXY_V2 + REQUEST, 400, "PROXY protocol"),
        (PREFACE, 505, "HTTP/2"),
    ],
)
def test_a_port_for_requests_names_what_it_does_not_speak(
    gateway: Gateway, begun: bytes, status: int, named: str
) -> None:
    with gateway.connect("plain") as client:
        client.send(begun)
        response = client.read_response()
        assert response.status == status
        assert named in response.body.decode()
        client.assert_ended()


def test_a_later_request_is_not_taken_for_another_protocol(gateway: Gateway) -> None:
    with gateway.connect("plain") as client:
        assert client.exchange(REQUEST).body == b"ok"
        client.send(PROXY_V1 + REQUEST)
        response = client.read_response()
        assert_fault(response, 400, "bad_request")
        assert b"PROXY" not in response.body


@pytest.mark.parametrize(
    ("listener", "begun", "named"),
    [("proxied", HELLO, b"TLS"), ("tls", PROXY_V1 + REQUEST, b"PROXY protocol")],
)
def test_other_ports_close_the_connection_and_name_it_in_the_log(
    gateway: Gateway, listener: str, begun: bytes, named: bytes
) -> None:
    with gateway.connect(listener) as client:
        client.send(begun)
        assert client.read_to_end() == b""
    line = gateway.stderr.wait_for(lambda line: b"listener %b:" % listener.encode() in line)
    assert named in line.partition(b"the peer speaks ")[2]
