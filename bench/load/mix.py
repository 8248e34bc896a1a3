"""A realistic mix of requests by locust, and the percentiles of each kind: `python -m bench mix`.

The users are in `locustfile.py`, which only locust imports, because it replaces the standard library's sockets. Times
are measured in one Python process with all users: they show changes, not the gateway's own time.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from bench import origin
from bench.load.tokens import AUDIENCE, ISSUER, write_public_key
from bench.peers import Fastgw, Place
from bench.peers.peer import routes
from bench.samples import percentile

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
SHARES = (50, 90, 99, 99.9)
WORST = 5  # maximum number of errors listed for each kind of request
BEGIN_S = 2  # until all users have started
STOP_S = 15  # users finish their requests; the slowest takes about two seconds
SLACK_S = 30  # for locust to start and end


class MixFailed(Exception):
    """There are no percentiles. The text has the reason."""


@dataclass(frozen=True)
class Mix:
    """Results of the users. `str` of it is a Markdown table."""

    seen: Mapping[str, Sequence[float]]
    """Milliseconds of correct responses by kind of request."""
    failed: Mapping[str, Mapping[str, int]]
    """Error counts by kind of request and error."""

    @property
    def failures(self) -> int:
        return sum(sum(kinds.values()) for kinds in self.failed.values())

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield "| request | answered | failed | " + " | ".join(f"p{share:g} ms" for share in SHARES) + " |"
        yield "| --- |" + " ---: |" * (2 + len(SHARES))
        for name in sorted(self.seen.keys() | self.failed.keys()):
            yield self._row(name, self.seen.get(name, ()), sum(self.failed.get(name, {}).values()))
        yield self._row("all", [each for times in self.seen.values() for each in times], self.failures)
        if self.failed:
            yield ""
        for name, kinds in self.failed.items():
            for what, count in sorted(kinds.items(), key=lambda kind: -kind[1])[:WORST]:
                yield f"- {name}: {what}: {count}"

    def _row(self, name: str, times: Sequence[float], failures: int) -> str:
        ordered = sorted(times)
        shares = [f"{percentile(ordered, share):.2f}" if ordered else "" for share in SHARES]
        return f"| {name} | {len(times)} | {failures} | {' | '.join(shares)} |"


def run(url: str | None = None, users: int = 200, seconds: int = 30) -> Mix:
    """Run this many users against the gateway at `url`; None: against a fastgw started for it.

    Raises `MixFailed`, and `NotReady` if a started program is not ready.
    """
    if url is None:
        with _fastgw() as own:
            return run(own, users, seconds)
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise MixFailed(f"{url}: expected a URL such as http://127.0.0.1:8080")
    with TemporaryDirectory(prefix="bench-") as folder:
        file = Path(folder, "seen.json")
        core = max(os.sched_getaffinity(0))
        command = ["taskset", "--cpu-list", str(core), sys.executable, "-m", "locust", "-f", str(LOCUSTFILE)]
        command += ["--headless", "--host", url, "--users", str(users), "--spawn-rate", str(users / BEGIN_S)]
        command += ["--run-time", f"{seconds}s", "--stop-timeout", str(STOP_S), "--skip-log", "--only-summary"]
        environment = {**os.environ, "BENCH_MIX_SEEN": str(file)}
        try:
            ran = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=seconds + STOP_S + SLACK_S
            )
        except subprocess.TimeoutExpired as error:
            raise MixFailed("locust has not ended in time") from error
        if not file.exists():
            raise MixFailed(f"locust ended with {ran.returncode}: {ran.stderr[-2000:]}")
        return Mix(**json.loads(file.read_text()))


@contextmanager
def _fastgw() -> Iterator[str]:
    """Start a gateway with the routes of `plain` and one that requires a token, on its own core, in front of the
    origin.
    """
    cores = sorted(os.sched_getaffinity(0))
    to_origin = [{"name": name, "paths": [f"/{name}/*"], "upstream": "origin"} for name in routes(100)]
    with TemporaryDirectory(prefix="bench-") as scratch:
        folder = Path(scratch)
        folder.chmod(0o755)  # a service started by root may switch to another user
        write_public_key(folder / "public.pem", folder / "jwks.json")
        jwt = {"issuer": ISSUER, "audiences": [AUDIENCE], "algorithms": ["RS256"], "jwks_file": "jwks.json"}
        private = {"name": "private", "paths": ["/private/*"], "upstream": "origin", "filters": {"jwt": jwt}}
        gateway = Fastgw(config={"routes": [*to_origin, private]})
        with (
            origin.serving(folder, cores[-1]) as origin_port,
            gateway.running(Place(folder, cores[:1], origin_port)) as running,
        ):
            yield f"http://127.0.0.1:{running.port}"
