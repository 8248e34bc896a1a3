"""A server of the tests, in threads, on a port of 127.0.0.1; with TLS if it gets a context."""

from __future__ import annotations

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class Threaded(ThreadingHTTPServer):
    """Serves within the `with`. `open`: event that responses may wait for; set at the end."""

    daemon_threads = True

    def __init__(self, answering: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), answering)
        self.open = threading.Event()
        self._scheme = "http" if tls is None else "https"
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def begin(self) -> None:
        """Start serving."""
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.open.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None: ...  # the client has left

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def origin(self) -> str:
        return f"{self._scheme}://{self.authority}"
