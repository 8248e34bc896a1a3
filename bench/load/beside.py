"""A load concurrent with other clients: slow ones of `python -m bench hold`, or one with requests of its own."""

import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from time import monotonic, monotonic_ns

from bench.load.load import Environment, Load, NoAnswers
from bench.peers.peer import HOST, Running
from bench.samples import Told

ROOT = Path(__file__).parents[2]
TIMEOUT = 30  # lines of `hold`, one every 2 s, until all clients are connected
STOP_SECONDS = 10.0
CLIENT = {"Host": HOST, "User-Agent": "bench", "Accept": "*/*"}


@dataclass(frozen=True)
class BesideSlowOnes:
    """`load` concurrent with `slow` clients, each sending an endless request head, one byte every 3 s."""

    name: str
    load: Load
    slow: int = 2_000

    @property
    def cut_off(self) -> int:
        return self.load.cut_off + 3 * self.slow  # closed by the contestant, reopened, and cut off at the end

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


@dataclass(frozen=True)
class BesideClient(ABC):
    """`load` concurrent with a client that sends a request `per_second` times."""

    name: str
    load: Load
    per_second: int

    @property
    def cut_off(self) -> int:
        return self.load.cut_off + self.per_second * TIMEOUT  # requests of the client

    @abstractmethod
    def ask(self, connection: HTTPConnection) -> str:
        """Send one request and receive its answer. Returns the error; "": it is valid."""

    def run(self, name: str, running: Running, environment: Environment, seconds: int) -> Told | None:
        """Run the load and the client. Raises `NoAnswers`."""
        over, failures = threading.Event(), list[str]()
        client = threading.Thread(target=_ask_until, args=(self, running.port, over, failures))
        client.start()
        try:
            told = self.load.run(name, running, environment, seconds)
        finally:
            over.set()
            client.join()
        if failures:
            raise NoAnswers(f"{name}: {failures[0]}")
        return told


@dataclass(frozen=True)
class BesideRequests(BesideClient):
    """The client posts `body` to `target`."""

    target: str
    body: bytes

    def ask(self, connection: HTTPConnection) -> str:
        fields = {**CLIENT, "Content-Type": "application/json"}
        connection.request("POST", self.target, self.body, fields)
        response = connection.getresponse()
        response.read()
        return "" if response.status == 200 else f"{self.target} is answered {response.status}"


@dataclass(frozen=True)
class BesideDownloads(BesideClient):
    """The client fetches `bytes_each` bytes below `folder`, another URL each time."""

    folder: str
    bytes_each: int

    def ask(self, connection: HTTPConnection) -> str:
        target = f"{self.folder}{monotonic_ns()}"
        connection.request("GET", target, headers=CLIENT)
        response = connection.getresponse()
        received = len(response.read())
        is_right = response.status == 200 and received == self.bytes_each
        return "" if is_right else f"{target} is answered {response.status} with {received} bytes"


def _ask_until(beside: BesideClient, port: int, over: threading.Event, failures: list[str]) -> None:
    """Send requests, `per_second`, until `over`, or one fails."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    due = monotonic()
    try:
        while not failures and not over.wait(max(due - monotonic(), 0)):
            due = max(due + 1 / beside.per_second, monotonic() - 1)
            if failure := beside.ask(connection):
                failures.append(failure)
    except (OSError, HTTPException) as error:
        failures.append(f"{beside.name}: {error}")
    finally:
        connection.close()
