"""fastgw with configuration changes while it runs.

There is no such nginx: on a reload it closes keep-alive connections, h2load does not reopen them, and its requests
would count as lost.
"""

import json
import os
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from typing import Any

from bench.peers.fastgw import Fastgw
from bench.peers.peer import routes
from bench.ports import NotReady

VERSIONS = 3
"""Number of versions, created before the measurement, and used in turn."""
TIMEOUT = 60.0  # seconds for one change
SOME = 10
"""In each version, one route of this many differs, if not all do."""


@dataclass(frozen=True)
class ReloadedFastgw(Fastgw):
    """Changes are applied by its admin listener, which responds when every worker serves the new configuration."""

    change_all: bool = False

    def _configuration(self, origin_port: int, access_log: Path) -> dict[str, Any]:
        return {
            **super()._configuration(origin_port, access_log),
            "admin": {"address": "127.0.0.1:0", "document_bytes": "64MiB", "document_memory": "8GiB"},
        }

    def _changes(self, addresses: bytes, file: Path) -> "FastgwChanges":
        configuration = json.loads(file.read_text())
        versions = []
        for version in range(VERSIONS):
            for number, route in enumerate(routes(self.routes)):
                if self.change_all or not number % SOME:
                    configuration["routes"][number]["paths"] = [f"/{route}/*", f"/{route}-version{version}/*"]
            written = file.with_suffix(f".{version}")
            written.write_text(json.dumps(configuration, indent=1))
            versions.append(written)
        return changes_by(addresses, file, versions)


def changes_by(addresses: bytes, file: Path, versions: list[Path]) -> "FastgwChanges":
    """Return the changes. `addresses`: as in `Fastgw._changes`."""
    ready = json.loads(addresses)
    host, _, port = ready["admin"].rpartition(":")
    token = Path(ready["token_file"]).read_text().strip()
    return FastgwChanges(file, versions, HTTPConnection(host, int(port), timeout=TIMEOUT), token)


class FastgwChanges:
    """`versions`: files that replace `file`, in turn."""

    def __init__(self, file: Path, versions: list[Path], admin: HTTPConnection, token: str) -> None:
        self._file, self._versions, self._admin = file, versions, admin
        self._shown = {"Authorization": f"Bearer {token}"}
        self._turn = count()

    def apply(self) -> float:
        _put(self._versions[next(self._turn) % VERSIONS], self._file)
        return self._ask("/reload", b"", {})

    def check(self) -> float:
        """Have a version read, checked, compiled and compared; return the seconds."""
        return self._ask("/config?dry_run=true", self._versions[0].read_bytes(), {"Content-Type": "application/json"})

    def _ask(self, target: str, body: bytes, fields: dict[str, str]) -> float:
        begun_at = time.perf_counter()
        self._admin.request("POST", target, body, {**self._shown, **fields})
        answer = self._admin.getresponse()
        told = answer.read()
        self._admin.close()  # it would be closed before the next request
        if answer.status != 200:
            raise NotReady(f"fastgw answered {answer.status} to {target}: {told[:1000]!r}")
        return time.perf_counter() - begun_at


def _put(written: Path, file: Path) -> None:
    """Replace `file` at once, by a link, so that nothing is copied during the measurement."""
    link = file.with_suffix(".link")
    link.unlink(missing_ok=True)
    link.symlink_to(written.name)
    os.replace(link, file)
