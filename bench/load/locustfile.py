"""Realistic mix of users of a gateway. `python -m bench mix`, or alone: `locust -f` this file.

Of twenty users eleven browse, five post, two send slowly, and two use invalid tokens. Routes are those of `plain`:
`/svc0/` to `/svc99/` reach the service. `/private/` requires a token. A gateway without such a route responds 404,
which counts as correct.

Every response is checked. Addresses, identifiers and bodies vary with each request. If BENCH_MIX_SEEN is set, results
are written to that file: locust itself rounds times.
"""

import json
import os
import random
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from locust import FastHttpUser, User, between, constant, events, task

HOST = "api.example.com"
SERVICES = 100
REFUSALS = {401, 403, 404}
SLOW_PIECES, SLOW_PAUSE_S = 20, 0.1
TIMEOUT_S = 10.0


class Asker(FastHttpUser):
    """User that keeps its connection and its session, as browsers and client libraries do."""

    abstract = True
    connection_timeout = network_timeout = TIMEOUT_S

    def on_start(self) -> None:
        self.session = f"{random.getrandbits(128):032x}"

    def ask(self, method: str, path: str, name: str, expected: set[int], headers: dict[str, str], **body: Any) -> None:
        request_id = f"{random.getrandbits(64):016x}"
        own = {"Host": HOST, "X-Request-Id": request_id, "Cookie": f"session={self.session}; theme=dark"}
        with self.client.request(
            method, path, name=name, headers={**own, **headers}, catch_response=True, **body
        ) as answer:
            if answer.status_code not in expected:
                answer.failure(f"status {answer.status_code}" if answer.status_code else repr(answer.error))
            elif answer.status_code == 200 and answer.headers.get("X-Request-Id") != request_id:
                answer.failure("answer to another request")
            else:
                answer.success()  # a rejection too, where expected


class Browser(Asker):
    """Requests a list, then some of its elements, with pauses."""

    weight = 11
    wait_time = between(0.1, 0.5)

    @task
    def browse(self) -> None:
        service = random.randrange(SERVICES)
        accept = {"Accept": "application/json", "Accept-Encoding": "gzip, br", "Accept-Language": "en-GB,en;q=0.9"}
        page = f"/svc{service}/v1/items?page={random.randint(1, 50)}"
        self.ask("GET", page, "browse: list", {200}, accept)
        for _ in range(random.randint(1, 4)):
            self.wait()  # type: ignore[no-untyped-call]  # locust's
            item = f"/svc{service}/v1/items/{random.randint(1, 10**6)}"
            self.ask("GET", item, "browse: item", {200}, {**accept, "Referer": f"https://{HOST}{page}"})


class Writer(Asker):
    """Sends orders of 1 to 20 KiB."""

    weight = 5
    wait_time = between(0.2, 1.0)

    @task
    def post(self) -> None:
        line = {"item": random.randint(1, 10**6), "count": random.randint(1, 9), "note": "x" * 100}
        order = json.dumps({"lines": [line] * random.randint(7, 140)}).encode()
        path = f"/svc{random.randrange(SERVICES)}/v1/orders"
        self.ask("POST", path, "post", {200}, {"Content-Type": "application/json"}, data=order)


class Stranger(Asker):
    """Tries tokens, and does not slow down when rejected."""

    weight = 2
    wait_time = between(0.1, 0.3)

    @task
    def knock(self) -> None:
        token = ".".join(f"{random.getrandbits(size):x}" for size in (144, 480, 512))
        path = f"/private/v1/accounts/{random.randint(1, 10**6)}"
        self.ask("GET", path, "bad token", REFUSALS, {"Authorization": f"Bearer {token}"})


class SlowClient(User):
    """On a slow connection: its request takes two seconds to send. Time is measured from its last byte."""

    weight = 2
    wait_time = constant(0.5)

    @task
    def ask_slowly(self) -> None:
        error: Exception | None = None
        sent_at, length = time.perf_counter(), 0
        try:
            with socket.create_connection((self._peer.hostname, self._peer.port or 80), TIMEOUT_S) as connection:
                self._send(connection)
                sent_at = time.perf_counter()
                length = self._read(connection)
        except OSError as failure:
            error = failure
        events.request.fire(  # type: ignore[no-untyped-call]  # locust's
            request_type="GET",
            name="slow client",
            response_time=(time.perf_counter() - sent_at) * 1e3,
            response_length=length,
            exception=error,
        )

    def on_start(self) -> None:
        self._peer = urlsplit(self.host or "")

    def _send(self, connection: socket.socket) -> None:
        path = f"/svc{random.randrange(SERVICES)}/v1/items/{random.randint(1, 10**6)}"
        cookie = f"session={random.getrandbits(128):032x}; theme=dark"
        message = f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n".encode()
        size = -(-len(message) // SLOW_PIECES)
        for first in range(0, len(message), size):
            time.sleep(SLOW_PAUSE_S)  # gevent's: other users continue
            connection.sendall(message[first : first + size])

    def _read(self, connection: socket.socket) -> int:
        """Return the length of the response. Raises `OSError` for an incorrect one."""
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise ConnectionError(f"answered {answer[:30]!r}")
        return len(answer)


seen: dict[str, list[float]] = {}
"""Milliseconds of correct responses by name of the request."""
failed: dict[str, dict[str, int]] = {}
"""Error counts by name of the request and error."""


@events.request.add_listener  # type: ignore[untyped-decorator]  # locust's
def _see(name: str, response_time: float, exception: BaseException | None, **_: Any) -> None:
    if exception is None:
        seen.setdefault(name, []).append(response_time)
    else:
        kinds = failed.setdefault(name, {})
        kinds[str(exception)] = kinds.get(str(exception), 0) + 1


@events.quit.add_listener  # type: ignore[untyped-decorator]  # locust's
def _keep(**_: Any) -> None:
    if file := os.environ.get("BENCH_MIX_SEEN"):
        Path(file).write_text(json.dumps({"seen": seen, "failed": failed}))
