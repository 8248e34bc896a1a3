"""OpenID provider with responses chosen by the test, over real HTTP."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.support.peer import DEADLINE
from tests.support.threaded import Threaded

Said = tuple[int, bytes]
"""A status, and a body."""


class Liar:
    """`says`: responses by path. Requests are recorded."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.says: dict[str, Said] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        """Requested paths, and the forms sent there."""
        self.holds: dict[str, threading.Event] = {}
        """Events to wait for before responding, by path."""
        liar = self

        class Answer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                path = urlsplit(self.path).path
                form = {name: values[0] for name, values in parse_qs(sent.decode()).items()}
                form |= {name.lower(): value for name, value in self.headers.items() if name == "Authorization"}
                liar.asked.append((path, form))
                if path in liar.holds:
                    liar.holds[path].wait(DEADLINE)
                status, body = liar.says.get(path, (404, b""))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self._server = Threaded(Answer, tls)
        self.url = self._server.origin

    def __enter__(self) -> Self:
        self._server.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    def describes(self, name: str, keys: bytes, **more: Any) -> str:
        """Describe itself as an issuer under this name, like an ordinary provider, with `more`; return the issuer."""
        issuer = f"{self.url}/{name}"
        metadata = {
            "issuer": issuer,
            "authorization_endpoint": f"{issuer}/authorize",
            "token_endpoint": f"{issuer}/token",
            "jwks_uri": f"{issuer}/keys",
            "end_session_endpoint": f"{issuer}/end",
            **more,
        }
        self.says[f"/{name}/.well-known/openid-configuration"] = 200, json.dumps(metadata).encode()
        self.says[f"/{name}/keys"] = 200, keys
        return issuer
