"""Variables about the client's TLS connection, and of no connection without TLS."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

from fastgw.net.proxy_protocol import ProxyTlvs, header_v2
from tests.support.certificates import Certificates
from tests.support.gateway import Gateway, wait_until


def test_values_of_a_proxy_header_are_variables_and_fields_of_the_log(tmp_path: Path) -> None:
    file = tmp_path / "chosen.log"
    config = {
        "listeners": {
            "main": {"address": "127.0.0.1:0", "proxy_protocol": "required", "trusted_proxies": ["127.0.0.0/8"]}
        },
        "routes": [{"name": "r", "respond": {"body": "{proxy.unique_id} {proxy.authority} {proxy.alpn}"}}],
        "access_logs": [{"sink": str(file), "fields": ["client", "proxy.unique_id", "id={proxy.alpn}"]}],
    }
    header = header_v2(("192.0.2.1", 1111), ("192.0.2.2", 2222), ProxyTlvs("h2", "a.test", "id-1"))
    with Gateway(config, tmp_path) as gateway:
        for first, told in ((header, b"id-1 a.test h2"), (header_v2(None, None), b"  ")):
            with gateway.connect() as client:
                client.send(first + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert client.read_response().body == told
        wait_until(lambda: file.exists() and file.read_bytes().count(b"\n") == 2, "two lines")
    lines = {line["client"]: line for line in map(json.loads, file.read_bytes().splitlines())}
    assert lines["192.0.2.1"] == {"client": "192.0.2.1", "proxy.unique_id": "id-1", "id": "h2"}
    assert lines["127.0.0.1"]["proxy.unique_id"] is None


def test_responses_tell_of_the_connection(tmp_path: Path) -> None:
    made = Certificates(tmp_path)
    certificate, key = made.issue("localhost", stem="issued")
    tls = {"certificates": [{"certificate": str(certificate), "key": str(key)}]}
    config = {
        "workers": 1,
        "listeners": {
            "main": {"address": "127.0.0.1:0", "tls": tls, "protocols": ["http1"]},
            "clear": {"address": "127.0.0.1:0"},
        },
        "routes": [{"name": "r", "respond": {"body": "{tls.version} {tls.cipher} {tls.sni}"}}],
    }
    context = ssl.create_default_context(cafile=str(made.ca))
    with Gateway(config, tmp_path) as gateway:
        with gateway.connect() as client, context.wrap_socket(client.sock.dup(), server_hostname="localhost") as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            received = b""
            while piece := sock.recv(65536):
                received += piece
            cipher = sock.cipher()
            assert cipher is not None
            told = f"{sock.version()} {cipher[0]} localhost".encode()
        assert received.endswith(b"\r\n\r\n" + told)
        with gateway.connect("clear") as client:
            client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.read_response().body == b"  "
