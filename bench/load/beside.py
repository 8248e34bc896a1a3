"""A load while slow clients hang on, as `python -m bench hold` makes them."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.load.load import Environment, Load, NoAnswers
from bench.peers.peer import Running
from bench.samples import Told

ROOT = Path(__file__).parents[2]
TIMEOUT = 30  # lines that `hold` prints, every 2 s, until all are there
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class BesideSlowOnes:
    """`load` while `slow` clients send a request head without end, a byte every 3 s each."""

    name: str
    load: Load
    slow: int = 2_000

    @property
    def cut_off(self) -> int:
        return self.load.cut_off + 3 * self.slow  # given up by the contestant, opened again, and cut off at the end

    def run(self, name: str, running: Running, environment: Environment, seconds: int) -> Told | None:
        with self._holding(name, running):
            return self.load.run(name, running, environment, seconds)

    @contextmanager
    def _holding(self, name: str, running: Running) -> Iterator[None]:
        command = [sys.executable, "-u", "-m", "bench", "hold", "--connections", "0", "--slow-heads", str(self.slow)]
        command.append(f"http://127.0.0.1:{running.port}")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as hold:
            assert hold.stdout
            try:
                for _ in range(TIMEOUT):
                    if f"slow heads: {self.slow} of {self.slow} live" in (line := hold.stdout.readline()) or not line:
                        break
                else:
                    raise NoAnswers(f"{name} does not hold {self.slow} slow clients: {line}")
                yield
            finally:
                hold.terminate()
                hold.communicate(timeout=STOP_SECONDS)
