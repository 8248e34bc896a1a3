"""A token endpoint controlled by the test, which records its requests."""

from __future__ import annotations

import json
import ssl
import threading
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs

from tests.support.peer import DEADLINE
from tests.support.threaded import Threaded


@dataclass
class Question:
    """A request as received."""

    method: str
    path: str
    query: str
    fields: Mapping[str, str]
    form: Mapping[str, list[str]]

    @property
    def client_secret(self) -> str:
        """Client secret in `Authorization: Basic`, after the client id."""
        return b64decode(self.fields["Authorization"].removeprefix("Basic ")).decode().partition(":")[2]


class Issuer(Threaded):
    """Answers `token 1`, `token 2`…, each valid for `expires_in` seconds; only the last one is live.

    `answer`: another response. `open`: while it is not set, requests are not answered.
    """

    request_queue_size = 256

    def __init__(self, expires_in: Any = 3600, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(_Answering, tls)
        self.expires_in = expires_in
        self.questions: list[Question] = []
        self.answer: Callable[[Question], tuple[int, Mapping[str, str], bytes]] = self.issue
        self.open.set()
        self._count = 0
        self._lock = threading.Lock()
        self.begin()

    @property
    def url(self) -> str:
        return f"{self.origin}/token"

    @property
    def asked(self) -> int:
        return len(self.questions)

    @property
    def live(self) -> str:
        """The only valid token."""
        return f"token-{self._count}"

    def revoke(self) -> None:
        """Revoke all issued tokens."""
        with self._lock:
            self._count += 1

    def issue(self, question: Question) -> tuple[int, Mapping[str, str], bytes]:
        with self._lock:
            self._count += 1
            said = {"access_token": self.live, "token_type": "Bearer"}
        if self.expires_in is not None:
            said["expires_in"] = self.expires_in
        return 200, {}, json.dumps(said).encode()

    def fail(self, status: int = 503, body: bytes = b"{}", **fields: str) -> None:
        """Answer with errors from now on."""
        told = {name.replace("_", "-"): value for name, value in fields.items()}
        self.answer = lambda question: (status, told, body)

    def recover(self) -> None:
        self.answer = self.issue


class _Answering(BaseHTTPRequestHandler):
    server: Issuer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        path, _, query = self.path.partition("?")
        question = Question(self.command, path, query, dict(self.headers), parse_qs(body, keep_blank_values=True))
        self.server.questions.append(question)
        self.server.open.wait(DEADLINE)
        status, fields, answer = self.server.answer(question)
        self.send_response(status)
        for name, value in fields.items():
            for each in value.split("\n"):
                self.send_header(name, each)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST

    def log_message(self, *_: object) -> None: ...
