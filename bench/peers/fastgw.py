"""fastgw with the same routes as the others in a configuration file, and its port by `--ready-fd`."""

import json
import os
import select
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.peers.peer import Changes, Place, Running, routes, version_told
from bench.ports import READY_SECONDS, NotReady
from bench.processes import Pinned, pinned

PYTHON = Path(sys.executable)


@dataclass(frozen=True)
class Fastgw:
    name: str = "fastgw"
    routes: int = 100
    workers: int = 1
    command: Sequence[str | Path] = (PYTHON, "-m", "fastgw")
    """Command that runs it: another revision's Python, or a launcher that adds a filter."""
    environment: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    """Additions to the configuration: top-level keys; `listener` and `upstream` are merged one level deep."""

    def version(self) -> str | None:
        return version_told(*self.command, "version")

    @contextmanager
    def running(self, place: Place) -> Iterator[Running]:
        access_log = place.folder / "access.log"
        access_log.touch()  # a worker creates its own some time after it is ready
        file = place.folder / "fastgw.json"
        file.write_text(json.dumps(self._configuration(place.origin_port, access_log), indent=1))
        readable, writable = os.pipe()
        with open(readable, "rb") as ready, open(writable, "wb") as told:
            command = [*self.command, "run", file, "--ready-fd", str(writable)]
            with pinned(
                command,
                place.cores,
                place.folder / "fastgw.out",
                pass_fds=[writable],
                environment=self.environment,
            ) as program:
                told.close()  # so that the pipe ends with fastgw
                if not select.select([ready], [], [], READY_SECONDS)[0]:
                    raise NotReady(f"fastgw is not ready after {READY_SECONDS:g} s: {program.last_words()}")
                addresses = os.read(readable, 65_536)
                yield Running(program, _port(addresses, program), access_log, self._changes(addresses, file))

    def _changes(self, addresses: bytes, file: Path) -> Changes | None:
        """Return the changes of a running gateway. `addresses`: its listeners, as JSON. `file`: its configuration."""
        return None

    def _configuration(self, origin_port: int, access_log: Path) -> dict[str, Any]:
        added = dict(self.config)
        listener = {"address": "127.0.0.1:0", **added.pop("listener", {})}
        upstream = {
            "targets": [{"url": f"http://127.0.0.1:{origin_port}"}],
            "host_header": "preserve",
            "pool": {"max_idle": 1024},
            **added.pop("upstream", {}),
        }
        return {
            "version": 1,
            "workers": self.workers,
            "listeners": {"public": listener},
            "access_logs": [{"sink": str(access_log), "format": "json"}],
            "upstreams": {"origin": upstream},
            "routes": [
                {"name": route, "paths": [f"/{route}/*"], "upstream": "origin"} for route in routes(self.routes)
            ],
            **added,
        }


def _port(told: bytes, program: Pinned) -> int:
    try:
        (address,) = json.loads(told)["listeners"]["public"]
    except (ValueError, KeyError) as error:
        raise NotReady(f"fastgw told {told!r} as its addresses: {program.last_words()}") from error
    return int(address.rpartition(":")[2])
