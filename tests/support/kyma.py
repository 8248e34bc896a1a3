"""Kyma's documents in files, and an API that returns the credentials it received."""

from __future__ import annotations

import base64
import json
import os
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

Json = dict[str, Any]


def application(*services: Json, name: str = "shop", **spec: Any) -> Json:
    """Return an Application with these services."""
    version = "applicationconnector.kyma-project.io/v1alpha1"
    said = {"services": [*services], **spec}
    return {"apiVersion": version, "kind": "Application", "metadata": {"name": name}, "spec": said}


def service(name: str, *entries: Json, **more: Any) -> Json:
    """Return a service with these entries."""
    return {"id": f"id-of-{name}", "displayName": name, "entries": [*entries], **more}


def api(url: str = "https://api.example/v2", **more: Any) -> Json:
    """Return an entry."""
    return {"type": "API", "targetUrl": url, **more}


def secret(name: str, namespace: str = "kyma-system", **values: str) -> Json:
    """Return a Secret with these values."""
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "data": data}


def credentials(kind: str, name: str = "secret", **more: Any) -> Json:
    """Return the credentials of an entry."""
    return {"type": kind, "secretName": name, **more}


def stream(*objects: Json) -> str:
    """Return a YAML stream of several documents."""
    return "\n---\n".join(json.dumps(each, indent=1) for each in objects)


def put(file: Path, text: str) -> None:
    """Replace a file as editors do, by rename."""
    written = file.with_suffix(".new")
    written.write_text(text)
    os.replace(written, file)


class Shown(ThreadingHTTPServer):
    """An API that returns what it received: path, `Authorization`, `X-Tenant`, the certificate's subject.

    A POST requests a token, which ends like the client secret.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Telling)
        self.connections = 0
        self._tls = tls
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Shown:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.server_address[1]}"

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Handle the request in the connection's own thread."""
        self.connections += 1
        if self._tls is None:
            super().finish_request(request, client_address)
        else:
            with self._tls.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections closed by the gateway."""


class _Telling(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        subject = ""
        if isinstance(self.connection, ssl.SSLSocket):
            shown: Any = (self.connection.getpeercert() or {}).get("subject", ())
            subject = dict(part[0] for part in shown).get("commonName", "")
        told = {
            "path": self.path,
            "authorization": self.headers["Authorization"],
            "tenant": self.headers["X-Tenant"],
            "subject": subject,
        }
        self._answer(told)

    def do_POST(self) -> None:
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        assert "client_secret" not in asked, "header and body at once (RFC 6749 section 2.3)"
        shown = base64.b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode()
        secret = shown.partition(":")[2]
        self._answer({"access_token": f"token-{secret[-4:]}", "token_type": "Bearer", "expires_in": 3600})

    def _answer(self, told: Json) -> None:
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""
