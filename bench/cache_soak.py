"""Soak test of the response cache with its disk and Redis tiers: a model checks every answer under purges and kills.

    python -m bench.cache_soak --minutes 30

Workers are killed, configurations are changed, and now and then the whole gateway is killed, all of its processes at
once, and starts again with the files that it has left. Redis is killed, too, and evicts what is too much for it. The
origin changes its resources at random. Its model knows when
each version was replaced and how long it may be used afterwards, so for every answer it is known whether it may still
be sent. Wrong is: another body than that of the version it names, a version that is too old or that was purged, a
variant for another language, a stored answer that says no-store, or an answer for a consumer that another one gets.
Exit code 1: an answer was wrong.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer

from bench.soak import Failed, post_admin, post_configuration, processes, running_gateway

RESOURCES: Final = 400
LANGUAGES: Final = ("en", "de", "fr")
GROUPS: Final = 7
LATE_S: Final = 3.0
"""Seconds that are forgiven: ages are whole seconds, and both processes wait for their turn."""
READ_S: Final = 30.0
REDIS_MEMORY: Final = "24mb"


class Resource:
    """A resource of the origin. Its kind is decided by its number."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.version = 0
        self.max_age = (0, 1, 2, 30)[number % 4]
        self.is_private = number % 11 == 0
        self.varies = number % 3 == 0
        self.tag = f"group-{number % GROUPS}"
        self.size = (10, 900, 5_000, 70_000, 400_000, 10, 900, 5_000, 70_000, 900_000)[number % 10]
        self.replaced_at: list[float] = []
        """When each version but the last one was replaced."""
        self.least = 0
        """The oldest version that may be sent since the last purge."""

    def change(self) -> None:
        self.version += 1
        self.replaced_at.append(time.monotonic())

    def body(self, version: int, language: str) -> bytes:
        """Return the body of a version: it names what it is, and every byte of it follows from that."""
        name = f"{self.number} {version} {language} ".encode()
        pattern = blake2b(name, digest_size=16).hexdigest().encode()
        return name + (pattern * (self.size // len(pattern) + 1))[: self.size]

    def complaint(self, answer: "Answer", language: str, asked_at: float, least: int) -> str:
        """Return the error in an answer; "": there is none. `least`: the value when it was asked for."""
        words = answer.body.split(b" ", 3)
        if len(words) != 4 or words[0] != b"%d" % self.number:
            return f"the body is not of this resource: {answer.body[:60]!r}"
        version, told = int(words[1]), words[2].decode()
        if answer.body != self.body(version, told):
            return f"the body of version {version} is damaged"
        if self.varies and told != language:
            return f"language {told} for {language}"
        if version < least:
            return f"version {version} was purged, the oldest is {least}"
        if version < self.version:
            too_late = self.replaced_at[version] + self.max_age + LATE_S
            if asked_at > too_late:
                return f"version {version} is too old by {asked_at - too_late:.1f} s"
        if self.is_private and answer.is_hit:
            return "no-store was stored"
        return ""


class Answer(NamedTuple):
    """A response."""

    status: int
    is_hit: bool
    body: bytes


class World:
    """All resources, and the counts of the run."""

    def __init__(self) -> None:
        self.resources = [Resource(number) for number in range(RESOURCES)]
        self.answers = self.hits = self.broken = self.changes = self.purges = self.kills = self.reloads = 0
        self.restarts = self.at_start = self.redis_kills = 0
        """Kills of the whole gateway, and hits in the first second after a start."""
        self.port = 0
        """Of the gateway; 0: it is not running."""
        self.begun_at = 0.0
        """Monotonic seconds at which it began to serve."""
        self.wrong: list[str] = []

    # the origin

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the gateway on one connection."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                await self._answer(head, writer)
        writer.close()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> None:
        resource = self.resources[int(head.split(" ", 2)[1].rpartition("/")[2])]
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\r\n")[1:])}
        language = fields.get("accept-language", "en")
        version = resource.version
        etag = f'"{version}{language if resource.varies else ""}"'
        control = "no-store" if resource.is_private else f"max-age={resource.max_age}"
        lines = f"Cache-Control: {control}\r\nETag: {etag}\r\nSurrogate-Key: {resource.tag}\r\n"
        lines += "Vary: Accept-Language\r\n" if resource.varies else ""
        if fields.get("if-none-match") == etag:
            writer.write(f"HTTP/1.1 304 Not Modified\r\n{lines}\r\n".encode())
            return
        body = resource.body(version, language)
        is_chunked = random.random() < 0.3
        framing = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {len(body)}"
        writer.write(f"HTTP/1.1 200 OK\r\n{lines}{framing}\r\n\r\n".encode())
        half = len(body) // 2
        for piece in (body[:half], body[half:]):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked and piece else piece)
            await writer.drain()
            await asyncio.sleep(random.random() * 0.005)
        if is_chunked:
            writer.write(b"0\r\n\r\n")

    # the clients

    async def visit(self, pause: float) -> None:
        """Ask for resources at random, and check the answers, for ever. `pause`: seconds between two requests."""
        while True:
            if not self.port:
                await asyncio.sleep(0.05)
                continue
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            try:
                for _ in range(20):
                    await self._ask(reader, writer)
                    await asyncio.sleep(pause)
            except (OSError, EOFError, TimeoutError):
                self.broken += 1  # a worker was killed
            finally:
                writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Popular ones more often, so that equal requests meet.
        resource = self.resources[int(RESOURCES * random.random() ** 3)]
        language = random.choice(LANGUAGES)
        least, asked_at = resource.least, time.monotonic()
        request = f"GET /r/{resource.number} HTTP/1.1\r\nHost: a.test\r\nAccept-Language: {language}\r\n\r\n"
        writer.write(request.encode())
        async with asyncio.timeout(READ_S):
            answer = await _read_answer(reader)
        if answer.status != 200:
            self.broken += 1
            return
        self.answers += 1
        self.hits += answer.is_hit
        self.at_start += answer.is_hit and asked_at < self.begun_at + 1.0
        if complaint := resource.complaint(answer, language, asked_at, least):
            self.wrong.append(f"/r/{resource.number}: {complaint}")

    # what disturbs them

    async def change(self) -> None:
        """Change a resource every few milliseconds."""
        while True:
            await asyncio.sleep(random.random() * 0.02)
            random.choice(self.resources).change()
            self.changes += 1

    async def purge(self, folder: Path) -> None:
        """Purge at random. From the response on, no version from before it may be sent."""
        while True:
            await asyncio.sleep(random.random())
            if not self.port:
                continue
            resource = random.choice(self.resources)
            url = f"http://a.test/r/{resource.number}"
            wanted: list[tuple[dict[str, Any], list[Resource]]] = [
                ({"url": url}, [resource]),
                ({"prefix": "http://a.test/r/1"}, [each for each in self.resources if str(each.number)[0] == "1"]),
                ({"tags": [resource.tag]}, [each for each in self.resources if each.tag == resource.tag]),
                ({"all": True}, self.resources),
            ]
            body, purged = random.choices(wanted, (50, 5, 10, 1))[0]
            before = [each.version for each in purged]
            try:
                await post_admin(folder, "/cache/purge", json.dumps(body).encode())
            except (Failed, OSError):
                self.broken += 1  # the gateway was killed: it may have been carried out
                continue
            self.purges += 1
            for each, version in zip(purged, before, strict=True):
                each.least = max(each.least, version)


async def _read_answer(reader: asyncio.StreamReader) -> Answer:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lines = head.split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        if "content-length" in fields:
            body = await reader.readexactly(int(fields["content-length"]))
        else:
            body = b""
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readuntil(b"\r\n")
    except (asyncio.LimitOverrunError, ValueError) as error:
        raise EOFError(str(error)) from error
    return Answer(int(lines[0].split(" ")[1]), "fastgw; hit" in fields.get("cache-status", ""), body)


class Redis:
    """A Redis without a disk, which evicts the least recently used keys, those of the purges included."""

    def __init__(self, folder: Path) -> None:
        self._socket, self._folder = folder / "redis.sock", folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    def start(self) -> None:
        words = f"--port 0 --unixsocket {self._socket} --save  --appendonly no --maxmemory {REDIS_MEMORY}"
        command = ["redis-server", *words.split(" "), "--maxmemory-policy", "allkeys-lru"]
        self._process = subprocess.Popen(command, cwd=self._folder, stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _document(origin: int, folder: Path, reload: int, redis: Redis) -> dict[str, Any]:
    """Return the configuration; each reload is another one, with the same store."""
    return {
        "version": 1,
        "workers": 2,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "admin": {"address": f"unix:{folder}/admin.sock"},
        "status": None,
        "access_logs": [],
        "state": {"url": redis.url, "timeout": "5s"},
        "caches": {
            "main": {
                "memory": "4MiB",
                "max_object": "8MiB",
                "disk": {"path": f"{folder}/cache", "size": "16MiB"},
                "redis": True,
            }
        },
        "upstreams": {"origin": {"targets": [f"http://127.0.0.1:{origin}"]}},
        "routes": [
            {
                "name": "cached",
                "upstream": "origin",
                "filters": {"cache": {"stale_when_unreachable": "100ms", "lock_timeout": f"{1 + reload % 3}s"}},
            }
        ],
    }


class Pace(NamedTuple):
    """Load, and how often something happens. `life`: seconds between two kills of the whole gateway, at most."""

    clients: int
    pause: float
    life: float


async def soak(seconds: float, pace: Pace, tell_every: float, folder: Path) -> World:
    """Run, and print progress. Raises `Failed`."""
    world = World()
    server = await asyncio.start_server(world.serve, "127.0.0.1", 0)
    origin = server.sockets[0].getsockname()[1]
    tasks = [asyncio.create_task(world.visit(pace.pause)) for _ in range(pace.clients)]
    tasks += [asyncio.create_task(world.change()), asyncio.create_task(world.purge(folder))]
    begun = told_at = time.monotonic()
    redis = Redis(folder)
    redis.start()
    try:
        while (left := begun + seconds - time.monotonic()) > 0:
            async with running_gateway(folder, _document(origin, folder, world.reloads, redis)) as (supervisor, ports):
                world.port, world.begun_at = ports["main"], time.monotonic()
                ends_at = world.begun_at + min(left, pace.life * (0.5 + random.random() / 2))
                while time.monotonic() < ends_at:
                    await asyncio.sleep(min(1.0, max(0.0, ends_at - time.monotonic())))
                    await _disturb(
                        world, supervisor, redis, lambda: _document(origin, folder, world.reloads, redis), folder
                    )
                    for task in tasks:
                        if task.done():
                            task.result()  # raises
                    if time.monotonic() - told_at >= tell_every:
                        told_at = time.monotonic()
                        _tell(told_at - begun, world)
                world.port = 0
                if time.monotonic() < begun + seconds:
                    world.restarts += 1
                    for pid in processes(supervisor).values():
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server.close()
        redis.kill()
    return world


async def _disturb(
    world: World, supervisor: int, redis: Redis, document: Callable[[], dict[str, Any]], folder: Path
) -> None:
    """Kill a worker or Redis, or change the configuration, now and then."""
    if random.random() < 0.01:
        world.redis_kills += 1
        redis.kill()
        redis.start()
    if random.random() < 0.1:
        workers = [pid for name, pid in processes(supervisor).items() if name.startswith("worker")]
        if workers:
            os.kill(random.choice(workers), signal.SIGKILL)
            world.kills += 1
    if random.random() < 0.1:
        world.reloads += 1
        try:
            await post_configuration(folder, json.dumps(document()).encode())
        except OSError:
            world.broken += 1


def _tell(now: float, world: World) -> None:
    share = 100 * world.hits / max(world.answers, 1)
    print(
        f"{now:6.0f} s  {world.answers} answers, {share:.0f} % hits, {len(world.wrong)} wrong, {world.broken} broken "
        f"off  {world.changes} changes  {world.purges} purges  {world.kills} kills  {world.reloads} reloads  "
        f"{world.redis_kills} Redis kills  {world.restarts} restarts, {world.at_start} hits in their first second",
        flush=True,
    )


def main(
    minutes: Annotated[float, typer.Option(help="How long.")] = 30.0,
    clients: Annotated[int, typer.Option(help="Connections at a time.")] = 16,
    pause: Annotated[float, typer.Option(help="Seconds between two requests of a connection.")] = 0.0,
    life: Annotated[float, typer.Option(help="Seconds between two kills of the whole gateway, at most.")] = 60.0,
    tell_every: Annotated[float, typer.Option(help="Seconds between two lines.")] = 10.0,
    seed: Annotated[int | None, typer.Option(help="Of the choices; timing differs all the same.")] = None,
) -> None:
    """Run the soak test of the response cache."""
    random.seed(seed)
    with tempfile.TemporaryDirectory(prefix="fastgw-cache-soak-") as folder:
        begun = time.monotonic()
        try:
            world = asyncio.run(soak(minutes * 60, Pace(clients, pause, life), tell_every, Path(folder)))
        except Failed as error:
            print(error, file=sys.stderr)
            sys.exit(2)
    _tell(time.monotonic() - begun, world)
    for each in world.wrong[:20]:
        print(each)
    sys.exit(bool(world.wrong))


if __name__ == "__main__":
    typer.run(main)
