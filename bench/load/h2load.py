"""Open-loop load at a fixed rate with h2load, with latency measured from the time at which each request was due.

How h2load 1.52 keeps a rate (`--rps` is per connection): a timer per connection, at intervals of at least 10 ms,
releases as many requests as the elapsed time requires. A request that is due while another is in flight waits for its
response. The log has the time at which a request was sent, not when it was due: this would omit the wait, and a stalled
contestant would appear to have a few slow responses only (coordinated omission).

So the schedule is reconstructed from the log. Connections have a period of 20 ms, in which each sends one request, and
are opened evenly over one period: the pattern repeats exactly. Requests are sent when due or later, never earlier; so,
in sending order, none is earlier than its position in the pattern. The pattern is therefore the minimum over all
repetitions for each position, and latency is measured from the position in the pattern to the response. (If h2load
itself is delayed by more than a period, it shifts its timers: latencies then appear longer, never shorter.)

`tests/unit/bench/test_h2load.py` stalls such a schedule by 200 ms, which appears in these percentiles and would not in
those from sending; `tests/e2e/test_open_loop.py` stalls a real server under the real h2load.
"""

import math
import random
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.load.load import Environment, NoAnswers
from bench.peers.peer import HOST, Running, routes
from bench.samples import Told, percentiles

PERIOD = 0.02  # seconds between two requests of a connection; the resolution of h2load's timers is 0.01
EDGE = 12  # periods ignored at either end: while connections are being opened, the pattern has gaps
TIMEOUT = 30.0  # seconds after the schedule
URIS = 1000
FIELDS = (
    f":authority: {HOST}",  # sent as Host in HTTP/1.1
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.7",
    "Accept-Encoding: gzip, deflate, br, zstd;q=0.5",
    "Cache-Control: max-age=300",
    "Referer: https://www.example.com/catalogue/5f2b1790aa77/list?from=1234",
    "X-Request-Id: 3f2b1790-aa77-4c01-9c40f7b1e2d3",
    "X-Client-Version: web-12.34",
    f"Authorization: Bearer {'0123456789abcdef' * 14}",
    f"Cookie: session={'0123456789abcdef' * 3}; theme=dark; _ga=GA1.2.12345678.123456789; csrftoken={'a1' * 16}",
    f"Traceparent: 00-{'4bf92f35' * 4}-{'00f067aa' * 2}-01",
    'If-None-Match: W/"5f2b1790aa77c001"',
)

_PERSONAL = ("Authorization", "Cache-Control", "Cookie", "If-None-Match")
PUBLIC_FIELDS = tuple(line for line in FIELDS if line.partition(":")[0] not in _PERSONAL)
"""Header of a request that a cache may answer as it is: without credentials, conditions and directives."""

COUNTS = re.compile(r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, .*? (\d+) errored, (\d+) timeout")
DATA = re.compile(r"\((\d+)\) data")


@dataclass(frozen=True)
class Row:
    """Row of h2load's log: microseconds since the epoch, status, microseconds until the end of the response."""

    sent_us: int
    status: int
    duration_us: int


@dataclass(frozen=True)
class FixedRate:
    """Fixed rate: `share` of the saturation rate of contestant `of` under the load `saturated` in this run.

    Contestants that saturate below this rate are left out. Target and query vary; headers do not, because h2load cannot
    vary them.
    """

    name: str = "half load"
    share: float = 0.5
    of: str = "nginx"
    saturated: str = "64 connections"
    asked: int = 100
    """Number of routes to request: the first ones."""
    fields: tuple[str, ...] = FIELDS
    times_as_long: int = 1
    """Duration as a multiple of other loads. A few stalls of the machine determine the highest percentiles, and a short
    round may have none.
    """

    @property
    def cut_off(self) -> int:
        return 0

    def run(self, name: str, running: Running, environment: Environment, seconds: int) -> Told | None:
        most = environment.median(self.of, self.saturated, lambda sample: sample.rate)
        ours = environment.median(name, self.saturated, lambda sample: sample.rate)
        if not most or not ours or ours <= most * self.share:
            return None
        length = seconds * self.times_as_long
        return at_rate(most * self.share, name, running, environment, length, self.asked, self.fields)


def at_rate(
    rate: float,
    name: str,
    running: Running,
    environment: Environment,
    seconds: float,
    asked: int = 100,
    fields: tuple[str, ...] = FIELDS,
) -> Told:
    """Send `rate` requests per second to the first `asked` routes.

    Raises `NoAnswers` if they are not completed in time.
    """
    connections = max(1, round(rate * PERIOD))
    each = math.ceil(seconds / PERIOD) + 2 * EDGE
    log = environment.folder / "h2load.log"
    log.unlink(missing_ok=True)
    command = ["h2load", "--h1", "--threads=1", f"--clients={connections}", f"--requests={connections * each}"]
    command += [f"--rps={1 / PERIOD:g}", f"--log-file={log}", f"--input-file={uris(environment.folder, asked)}"]
    # Opened evenly over one period, so that requests are due evenly as well. The resolution of h2load is a millisecond.
    command += [f"--rate={math.ceil(connections / (PERIOD * 1000))}", "--rate-period=1ms"]
    command += [f"--base-uri=http://127.0.0.1:{running.port}", *(f"--header={line}" for line in fields)]
    try:
        printed = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, timeout=each * PERIOD + TIMEOUT
        ).stdout
    except subprocess.TimeoutExpired as error:
        raise NoAnswers(f"{name} did not answer {rate:,.0f} requests/s in time") from error
    rows = [row_of(line) for line in log.read_text().splitlines()]
    if len(rows) <= 2 * EDGE * connections:
        raise NoAnswers(f"{name} answered {len(rows)} of {connections * each} requests: {printed}")
    body = (environment.folder / "body.json").stat().st_size
    late = latencies(rows, connections)
    return Told(
        requests=len(rows),
        seconds=each * PERIOD,
        figures={**percentiles(late), "max_us": max(late)},
        faults=faults(printed, rows, connections * each, body),
    )


def row_of(line: str) -> Row:
    return Row(*map(int, line.split("\t")[:3]))  # later versions may add columns, as the manual says


def latencies(rows: Sequence[Row], connections: int, period: float = PERIOD) -> list[float]:
    """Return microseconds from the due time of each request to the end of its response, without the edges."""
    rows = sorted(rows, key=lambda row: row.sent_us)[EDGE * connections : -EDGE * connections]
    earliest = [math.inf] * connections
    for number, row in enumerate(rows):
        repetition, place = divmod(number, connections)
        earliest[place] = min(earliest[place], row.sent_us - repetition * period * 1e6)
    late = []
    for number, row in enumerate(rows):
        repetition, place = divmod(number, connections)
        due_us = earliest[place] + repetition * period * 1e6
        late.append(row.sent_us + row.duration_us - due_us)
    return late


def faults(printed: str, rows: Sequence[Row], expected: int, body: int) -> dict[str, int]:
    """Return errors from the output and log of h2load. `body`: bytes of each correct response."""
    counts, data = COUNTS.search(printed), DATA.search(printed)
    if counts is None or data is None:
        return {"h2load printed no counts": 1}
    done, succeeded, errored, timeout = map(int, counts.groups())
    return {
        "wrong status": sum(row.status != 200 for row in rows),
        "wrong length of bodies, in bytes": abs(int(data[1]) - body * len(rows)),
        "lost": expected - len(rows),
        "not succeeded": done - succeeded,
        "errored": errored,
        "timeout": timeout,
    }


def uris(folder: Path, asked: int) -> Path:
    """Write a file of targets, once per run."""
    file = folder / f"uris{asked}"
    if not file.exists():
        chance = random.Random(42)
        number = chance.randint
        file.write_text(
            "".join(
                f"/{chance.choice(routes(asked))}/v1/items/{number(1, 10**6)}/detail?page={number(1, 50)}"
                f"&q={chance.getrandbits(64):x}\n"
                for _ in range(URIS)
            )
        )
    return file
