"""Services that answer when a test lets them."""

from __future__ import annotations

import contextlib
import socket
import threading
from abc import ABC, abstractmethod
from typing import Self

from tests.support.gateway import STOP_DEADLINE
from tests.support.peer import DEADLINE


class Held(ABC):
    """One thread for each connection, and what some answers wait for: that they may `go_on`."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(DEADLINE)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                taken, _ = self._listening.accept()
                thread = threading.Thread(target=self._serve, args=(taken,), daemon=True)
                self._threads.append(thread)
                thread.start()

    @abstractmethod
    def _serve(self, taken: socket.socket) -> None:
        """Answer what one client asks, until it is gone."""


class Slow(Held):
    """Answers `/slow` once it may `go_on`, and everything else at once."""

    def _serve(self, taken: socket.socket) -> None:
        with taken, contextlib.suppress(OSError):
            while received := taken.recv(65_536):
                if b"/slow" in received:
                    self.go_on.wait(STOP_DEADLINE)
                taken.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
