"""Memory of a gateway's processes."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.support.gateway import Gateway


def held_by(pid: int) -> int:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return sum(int(lines[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))


class Memory:
    """Peak memory of each process of a gateway above that at the start, in bytes."""

    def __init__(self, gateway: Gateway) -> None:
        self._first = {pid: held_by(pid) for pid in (gateway.pid, *gateway.child_pids)}
        self._most = dict(self._first)
        self._stopped = threading.Event()
        self._watching = threading.Thread(target=self._watch)

    def __enter__(self) -> Memory:
        self._watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._watching.join()

    def _watch(self) -> None:
        while not self._stopped.wait(0.01):
            for pid, most in self._most.items():
                self._most[pid] = max(most, held_by(pid))

    @property
    def growth(self) -> dict[int, int]:
        return {pid: most - self._first[pid] for pid, most in self._most.items()}
