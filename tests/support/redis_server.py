"""A real Redis."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

from tests.support.gateway import wait_until
from tests.support.own_ports import own_port
from tests.support.peer import DEADLINE

PASSWORD = "the secret of Redis"


class RedisServer:
    """A Redis on a port that it keeps over restarts. Nothing is written to disk. `is_cluster`: a cluster of this node
    alone, from the next start on.
    """

    def __init__(self, directory: Path, *, is_cluster: bool = False) -> None:
        self._directory, self.is_cluster = directory, is_cluster
        self.port = own_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{self.port}/3"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        program = shutil.which("redis-server")
        assert program, "redis-server is not installed: make test installs it"
        settings = {"port": str(self.port), "bind": "127.0.0.1", "save": "", "appendonly": "no", "databases": "4"}
        if self.is_cluster:
            settings |= {"cluster-enabled": "yes", "cluster-port": str(own_port())}
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [program, *words, "--requirepass", PASSWORD], cwd=self._directory, stdout=subprocess.DEVNULL
        )
        wait_until(self._answers, "Redis")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(DEADLINE)
            self._process = None

    def _answers(self) -> bool:
        try:
            return self.ask("PING") == b"+PONG\r\n"
        except OSError:
            return False

    def ask(self, *words: str | bytes) -> bytes:
        """Return the response of Redis to a command, unparsed."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE) as sock:
            answer = b""
            for command in (("AUTH", PASSWORD), ("SELECT", "3"), words):
                raw = [word.encode() if isinstance(word, str) else word for word in command]
                lines = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in raw)
                sock.sendall(b"*%d\r\n%b" % (len(raw), lines))
                answer = sock.recv(1 << 20)
            return answer

    def names(self) -> list[bytes]:
        """Return all keys."""
        return self.ask("KEYS", "*").split(b"\r\n")[2::2]

    def everything(self) -> bytes:
        """Return all keys and values, unparsed."""
        return b"".join(name + self.ask("GET", name) for name in self.names())
