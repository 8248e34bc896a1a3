"""Variables about the client's TLS connection, and of no connection without TLS."""

from __future__ import annotations

import ssl
from pathlib import Path

from tests.support.certificates import Certificates
from tests.support.gateway import Gateway


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
