"""Origin with a token endpoint on a socket in its folder, as external APIs have."""

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
    """Run the origin, as `origin.serving`. Tokens are issued once per contestant, so that their cost is not
    measured.
    """
    with socketserver.ThreadingUnixStreamServer(str(folder / SOCKET), _Tokens) as tokens:
        (folder / SOCKET).chmod(0o666)
        threading.Thread(target=tokens.serve_forever, args=(0.05,), daemon=True).start()
        try:
            with origin.serving(folder, core) as port:
                yield port
        finally:
            tokens.shutdown()
