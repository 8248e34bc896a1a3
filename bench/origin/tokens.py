"""The origin, and beside it a token endpoint on a socket in its folder: what an API outside consists of."""

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from bench import origin

SOCKET = "token.sock"
ACCESS_TOKEN = b"0123456789abcdef" * 4
TOKEN = json.dumps({"access_token": ACCESS_TOKEN.decode(), "token_type": "Bearer", "expires_in": 86_400}).encode()


class _Tokens(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(TOKEN)))
        self.end_headers()
        self.wfile.write(TOKEN)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path, core: int) -> Iterator[int]:
    """As `origin.serving`. Tokens are handed out once per contestant, so that nobody sees what that costs."""
    with socketserver.ThreadingUnixStreamServer(str(folder / SOCKET), _Tokens) as tokens:
        (folder / SOCKET).chmod(0o666)
        threading.Thread(target=tokens.serve_forever, args=(0.05,), daemon=True).start()
        try:
            with origin.serving(folder, core) as port:
                yield port
        finally:
            tokens.shutdown()
