"""Closed-loop load over HTTP/2 with h2load: several connections, each with several requests in flight."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.load.h2load import FIELDS, row_of, uris
from bench.load.load import Environment, NoAnswers
from bench.peers.peer import Running, without_revision
from bench.samples import Told, percentiles

TIMEOUT = 30.0  # seconds after the run


@dataclass(frozen=True)
class Http2:
    """Targets and queries vary; headers do not, because h2load cannot vary them.

    `arguments`: further ones of h2load. `only`: the contestants with this load; empty: all. `fields`: lines of the
    header. `body`: file of the run's folder that each request carries; empty: none. `environment`: of h2load.
    """

    name: str
    connections: int
    streams: int
    arguments: Sequence[str] = ()
    only: Sequence[str] = ()
    fields: Sequence[str] = FIELDS
    body: str = ""
    scheme: str = "http"
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def cut_off(self) -> int:
        return 2 * self.connections * self.streams  # at the end of this run and of the previous one

    def run(self, name: str, running: Running, environment: Environment, seconds: int) -> Told | None:
        if self.only and without_revision(name) not in self.only:
            return None
        log = environment.folder / "h2load.log"
        log.unlink(missing_ok=True)
        command = ["h2load", "--threads=1", f"--clients={self.connections}", f"--max-concurrent-streams={self.streams}"]
        command += [f"--duration={seconds}", f"--log-file={log}", f"--input-file={uris(environment.folder, 100)}"]
        command.append(f"--base-uri={self.scheme}://127.0.0.1:{running.port}")
        command += [f"--header={line}" for line in self.fields]
        if self.body:
            command.append(f"--data={environment.folder / self.body}")
        printed = subprocess.run(
            [*command, *self.arguments],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=seconds + TIMEOUT,
            env={**os.environ, **self.environment},
        ).stdout
        rows = [row_of(line) for line in log.read_text().splitlines()]
        if not rows:
            raise NoAnswers(f"{name} answered nothing: {printed}")
        took = [float(row.duration_us) for row in rows]
        wrong = {"wrong status": sum(row.status != 200 for row in rows)}
        return Told(
            requests=len(rows), seconds=seconds, figures={**percentiles(took), "max_us": max(took)}, faults=wrong
        )
