"""Memory of an idle contestant, and the time that it takes to apply another configuration."""

import time
from dataclasses import dataclass
from http.client import HTTPConnection
from statistics import median

from bench.load.load import Environment
from bench.peers.peer import HOST, Running
from bench.samples import Told

REQUESTS = 100  # so that lazily loaded code and caches are in memory
CHANGES = 3
TIMEOUT = 10.0


@dataclass(frozen=True)
class AtRest:
    """Memory is anonymous, by `Pss`; a change is complete when the admin listener responds."""

    name: str = "at rest"
    path: str = "/svc0/v1/items/7"

    @property
    def cut_off(self) -> int:
        return 0

    def run(self, name: str, running: Running, environment: Environment, seconds: int) -> Told | None:
        if running.changes is None:
            return None
        begun_at = time.monotonic()
        client = HTTPConnection("127.0.0.1", running.port, timeout=TIMEOUT)
        wrong = 0
        for _ in range(REQUESTS):
            client.request("GET", self.path, headers={"Host": HOST})
            answer = client.getresponse()
            answer.read()
            wrong += answer.status != 200
        client.close()
        figures = {"bytes": float(running.program.memory()), "check_s": running.changes.check()}
        figures["apply_s"] = median(running.changes.apply() for _ in range(CHANGES))
        return Told(REQUESTS, time.monotonic() - begun_at, figures, {"wrong answer": wrong})
