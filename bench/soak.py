"""Soak test: memory of each of a gateway's processes during repeated reloads under load.

    python -m bench.soak --minutes 60

It measures what no short test sees: memory that comes back too late or never. Every reload changes every route, every
filter and every secret; the load opens and closes connections, over TLS too. Exit code 1: a process has grown by more
than `--most` an hour, counted from the middle of the run, when caches are full and pools have their size.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import secrets
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer

MIB: Final = 1 << 20
START_S: Final = 180.0
ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REQUESTS: Final = 20
"""Maximum number of requests on one connection."""
FASTGW: Final = Path(sys.executable).with_name("fastgw")

Sample = tuple[float, int]
"""Seconds since the start, and bytes."""
Samples = dict[str, list[Sample]]
"""Of each process."""


class Failed(Exception):
    """The gateway did not start, rejected a configuration, or did not respond. The text has its output."""


class Sizes(NamedTuple):
    workers: int
    routes: int
    clients: int
    reload_every: float
    """Seconds between two reloads, without the time of a reload; infinite = no reloads."""
    pause: float = 0.05
    """Maximum seconds between two connections of a client; half of it on average."""


class Counts:
    """Counts so far."""

    def __init__(self) -> None:
        self.requests = self.failed = self.reloads = 0


def document(sizes: Sizes, origin: int, folder: Path, number: int) -> dict[str, Any]:
    """Return the configuration of one generation: it differs from the previous one wherever possible."""
    tls = {"certificates": [{"certificate": str(folder / "cert.pem"), "key": str(folder / "key.pem")}]}
    routes = [
        {
            "name": f"r{each}",
            "paths": [f"/{each}/*"],
            "upstream": f"u{each % 4}",
            "timeout": f"{10 + number % 50}s",
            "filters": {
                "headers": {
                    "request": {"set": {"X-Secret": secrets.token_hex(16), "X-From": "{client_ip}"}},
                    "response": {"set": {"X-Generation": f"{number} {{host}}"}},
                },
                "rate_limit": {"limit": 1_000_000 + number, "window": "1s", "key": "ip"},
                "cors": {"origins": [f"https://a{number}.test", "https://*.b.test"]},
                "security_headers": {"referrer_policy": "no-referrer" if number % 2 else "same-origin"},
                "size": {"body": f"{1 + number % 7}MiB"},
            },
        }
        for each in range(sizes.routes)
    ]
    return {
        "version": 1,
        "workers": sizes.workers,
        "listeners": {"main": {"address": "127.0.0.1:0"}, "tls": {"address": "127.0.0.1:0", "tls": tls}},
        "status": None,
        "admin": {"address": f"unix:{folder}/admin.sock"},
        "upstreams": {
            f"u{each}": {"targets": [f"http://127.0.0.1:{origin}", f"http://127.0.0.1:{origin}/{number % 3}"]}
            for each in range(4)
        },
        "consumers": [
            {"name": f"c{each}", "key_auth": [{"key": secrets.token_hex(16)}]} for each in range(sizes.routes)
        ],
        "routes": routes,
    }


# --- measurement ---


def processes(supervisor: int) -> dict[str, int]:
    """Return the gateway's processes by name."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    found = {"supervisor": supervisor}
    for pid in map(int, children):
        with contextlib.suppress(OSError):
            found[Path(f"/proc/{pid}/comm").read_text().strip().removeprefix("fastgw ")] = pid
    return found


def anonymous(pid: int) -> int:
    """Return the private memory in bytes. Pages shared with the parent since the fork count as well, so that a write to
    one is not counted as growth."""
    (found,) = re.findall(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found) * 1024


def growth(samples: list[Sample]) -> float:
    """Return the growth in bytes per hour: slope of the linear fit of the second half."""
    later = samples[len(samples) // 2 :]
    mean_at = sum(at for at, _ in later) / len(later)
    mean = sum(held for _, held in later) / len(later)
    spread = sum((at - mean_at) ** 2 for at, _ in later)
    return 3600 * sum((at - mean_at) * (held - mean) for at, held in later) / spread if spread else 0.0


# --- participants ---


class _Origin(asyncio.Protocol):
    """Origin that answers each request head; the load sends no bodies."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # TCP gives no other
        self._transport = transport
        self._tail = b""

    def data_received(self, data: bytes) -> None:
        heads = (self._tail + data).split(b"\r\n\r\n")
        self._tail = heads.pop()
        self._transport.write(ANSWER * len(heads))


async def _visit(ports: Mapping[str, int], sizes: Sizes, context: ssl.SSLContext, counts: Counts) -> None:
    """Open one connection after another, some with TLS; some are closed in the middle of a response."""
    while True:
        tls = random.random() < 0.3
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", ports["tls" if tls else "main"], ssl=context if tls else None
            )
            try:
                for _ in range(random.randint(1, REQUESTS)):
                    path = b"/%d/%d?q=%d" % (
                        random.randrange(sizes.routes + 1),
                        random.randrange(9999),
                        random.randrange(9),
                    )
                    writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: a.test\r\nOrigin: https://x.b.test\r\n\r\n")
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = re.search(rb"(?i)content-length: *(\d+)", head)
                    await reader.readexactly(int(length[1]) if length else 0)
                    counts.requests += 1
                    counts.failed += head.startswith(b"HTTP/1.1 5")
                if random.random() < 0.2:
                    writer.write(b"GET /0/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
            finally:
                writer.close()
        await asyncio.sleep(random.random() * sizes.pause)


async def post_configuration(folder: Path, body: bytes) -> None:
    """Activate a configuration. Raises `Failed`."""
    await post_admin(folder, "/config", body)


async def post_admin(folder: Path, path: str, body: bytes) -> None:
    """Send a JSON document to the admin API of the gateway in this folder. Raises `Failed`."""
    reader, writer = await asyncio.open_unix_connection(str(folder / "admin.sock"))
    try:
        head = (
            f"POST {path} HTTP/1.1\r\n".encode()
            + b"Host: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        )
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        answer = await reader.read()
    finally:
        writer.close()
    if not answer.startswith(b"HTTP/1.1 200"):
        raise Failed(f"POST {path} was refused: {answer[-500:].decode(errors='replace')}")


@asynccontextmanager
async def running_gateway(folder: Path, first: Mapping[str, Any]) -> AsyncIterator[tuple[int, dict[str, int]]]:
    """Yield the pid of a gateway, and the port of each listener."""
    config = folder / "gateway.json"
    config.write_text(json.dumps(first))
    ready, ready_in = os.pipe()
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [FASTGW, "run", config, "--ready-fd", str(ready_in)],
            pass_fds=[ready_in],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
            env={**os.environ, "XDG_RUNTIME_DIR": str(folder)},
        )
    os.close(ready_in)
    try:
        with open(ready, "rb") as told:
            line = await asyncio.wait_for(asyncio.to_thread(told.readline), START_S)
        if not line:
            raise Failed((folder / "output").read_text(errors="replace"))
        listeners = json.loads(line)["listeners"]
        yield process.pid, {name: int(at[0].rpartition(":")[2]) for name, at in listeners.items()}
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _make_certificate(folder: Path) -> None:
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=a.test -days 30"
    subject = ["-addext", "subjectAltName=DNS:a.test", "-keyout", str(folder / "key.pem")]
    subprocess.run([*command.split(), *subject, "-out", str(folder / "cert.pem")], check=True, capture_output=True)


# --- the run ---


async def soak(
    sizes: Sizes, seconds: float, tell_every: float, folder: Path, enough: Callable[[Samples], bool] = lambda _: False
) -> Samples:
    """Run for this time, or until the samples are enough; print progress. Returns the memory of each process. Raises
    `Failed`.
    """
    _make_certificate(folder)
    context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    context.check_hostname = False
    counts = Counts()
    samples: Samples = {}
    origin = await asyncio.get_running_loop().create_server(_Origin, "127.0.0.1", 0)
    at = origin.sockets[0].getsockname()[1]
    async with running_gateway(folder, document(sizes, at, folder, 0)) as (supervisor, ports):
        visitors = [asyncio.create_task(_visit(ports, sizes, context, counts)) for _ in range(sizes.clients)]
        begun, logged_at = time.monotonic(), -inf
        try:
            while (now := time.monotonic() - begun) < seconds and not enough(samples):
                await asyncio.sleep(min(sizes.reload_every, 1.0))
                if sizes.reload_every < inf:
                    counts.reloads += 1
                    await post_configuration(folder, json.dumps(document(sizes, at, folder, counts.reloads)).encode())
                for visitor in visitors:
                    if visitor.done():
                        visitor.result()  # raises
                if now - logged_at >= tell_every:
                    logged_at = now
                    held = {name: anonymous(pid) for name, pid in processes(supervisor).items()}
                    for name, each in held.items():
                        samples.setdefault(name, []).append((now, each))
                    _tell(now, counts, held)
        finally:
            for visitor in visitors:
                visitor.cancel()
            await asyncio.gather(*visitors, return_exceptions=True)
            origin.close()
    return samples


def _tell(now: float, counts: Counts, held: Mapping[str, int]) -> None:
    memory = "  ".join(f"{name} {each / MIB:.2f}" for name, each in held.items())
    print(f"{now:6.0f} s  {counts.reloads} reloads  {counts.requests} requests  MiB: {memory}", flush=True)


def main(
    minutes: Annotated[float, typer.Option(help="How long.")] = 10.0,
    workers: Annotated[int, typer.Option(help="Of the gateway.")] = 2,
    routes: Annotated[int, typer.Option(help="Each with five filters and a consumer.")] = 100,
    clients: Annotated[int, typer.Option(help="Connections at a time.")] = 16,
    reload_every: Annotated[float, typer.Option(help="Seconds between two reloads; 0: none.")] = 1.0,
    tell_every: Annotated[float, typer.Option(help="Seconds between two lines.")] = 10.0,
    most: Annotated[float, typer.Option(help="MiB an hour that a process may grow; 0: any.")] = 0.0,
) -> None:
    """Run the soak test: reload the configuration under load, and print the memory of each process."""
    with tempfile.TemporaryDirectory(prefix="fastgw-soak-") as folder:
        try:
            samples = asyncio.run(
                soak(Sizes(workers, routes, clients, reload_every or inf), minutes * 60, tell_every, Path(folder))
            )
        except Failed as error:
            print(error, file=sys.stderr)
            sys.exit(2)
    grown = {name: growth(each) / MIB for name, each in samples.items()}
    for name, each in grown.items():
        print(f"{name}: {each:+.1f} MiB an hour")
    if most and max(grown.values()) > most:
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
