"""A service with a mode that tests may change at any time: it answers, refuses, hangs, resets, breaks off or fails."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections import Counter
from multiprocessing.connection import wait

from tests.support.own_ports import listen_on_own_port
from tests.support.peer import DEADLINE

MOODS = ("ok", "500", "503", "refuses", "hangs", "hangs_within", "resets", "breaks_off", "babbles")
_RESET = struct.pack("ii", 1, 0)


class Moody:
    """One target. `requests`: counts by path; `connections`: number of accepted ones. `name`: its response."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.requests: Counter[bytes] = Counter()
        self.connections = 0
        self._mood = "ok"
        self._sick: frozenset[bytes] = frozenset()
        self._lock = threading.Lock()
        self._held: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listening = listen_on_own_port(1024)
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._begin(self._accept, self._listening)

    def __enter__(self) -> Moody:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_listening()
        self._drop()
        for thread in self._threads:
            thread.join(DEADLINE)

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def served(self) -> int:
        """Requests other than health checks."""
        return self.requests.total() - self.requests[b"/healthz"]

    def be(self, mood: str, *paths: bytes) -> None:
        """Set the mode. `paths`: for these only; none = for all. Hanging requests hang until the peer disconnects."""
        was, self._mood, self._sick = self._mood, mood, frozenset(paths)
        if mood == "refuses":
            self._stop_listening()
            self._listening = socket.socket()  # the port stays reserved, so that no other test gets it
            self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            host, _, port = self.address.partition(":")
            self._listening.bind((host, int(port)))
            self._drop()
        elif was == "refuses":
            self._listening.listen(1024)
            self._begin(self._accept, self._listening)

    def _begin(self, run: object, sock: socket.socket) -> None:
        thread = threading.Thread(target=run, args=(sock,), daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _stop_listening(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _drop(self) -> None:
        with self._lock:
            for sock in self._held:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                taken, _ = listening.accept()
                with self._lock:
                    self.connections += 1
                    self._held.add(taken)
                self._begin(self._serve, taken)

    def _serve(self, taken: socket.socket) -> None:
        with taken, contextlib.suppress(OSError):
            received = b""
            while chunk := taken.recv(65_536):
                received += chunk
                while b"\r\n\r\n" in received:
                    head, _, received = received.partition(b"\r\n\r\n")
                    path = head.split(b" ", 2)[1]
                    with self._lock:
                        self.requests[path] += 1
                    mood = self._mood if not self._sick or path in self._sick else "ok"
                    if not self._answer(taken, mood):
                        return
        with self._lock:
            self._held.discard(taken)

    def _answer(self, taken: socket.socket, mood: str) -> bool:
        """Answer one request. False: the connection is over."""
        length = b"Content-Length: %d\r\n\r\n" % len(self.name)
        if mood == "resets":
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            return False
        if mood == "babbles":
            taken.sendall(b"what?\r\n\r\n")
            return False
        if mood in ("hangs", "hangs_within"):
            if mood == "hangs_within":
                taken.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
            wait([taken])  # until the gateway stops reading
            return False
        if mood == "breaks_off":
            taken.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + self.name)
            return False
        status = {"500": b"500 Sorry", "503": b"503 Sorry"}.get(mood, b"200 OK")
        taken.sendall(b"HTTP/1.1 %b\r\n%b%b" % (status, length, self.name))
        return True
